"""mm, bmm, matmul, linear: out=, and what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checks import on_the_cpu, rand

import fastgrad.functional as fg


def r(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


def d(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.float64)


def t(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.int64))
def test_out(dtype: torch.dtype) -> None:
    a, b = rand((2, 17, 9), dtype), rand((2, 9, 18), dtype)
    expected = fg.bmm(a, b)
    for out in (
        torch.empty(2, 17, 18, dtype=dtype),
        torch.empty(2, 18, 17, dtype=dtype).mT,
        torch.empty(17, 2, 18, dtype=dtype).transpose(0, 1),
        torch.empty(18, 17, 2, dtype=dtype).permute(2, 1, 0),
        torch.full((2, 34, 36), 77, dtype=dtype)[:, ::2, ::2],
        torch.full((2, 17, 20), 77, dtype=dtype)[..., 1:19],
        torch.empty(0, dtype=dtype),
    ):
        whole = out._base if out._base is not None and out._base.numel() > out.numel() else None
        strides = out.stride() if out.numel() else expected.stride()
        version = out._version
        for f in (fg.bmm, fg.matmul):
            assert f(a, b, out=out) is out
            torch.testing.assert_close(out, expected)
            assert out.stride() == strides
        assert out._version > version
        if whole is not None:
            assert (whole == 77).sum() >= whole.numel() - out.numel(), "written outside of out"
    out = torch.empty(17, 18, dtype=dtype)
    assert torch.equal(fg.mm(a[0], b[0], out=out), expected[0])
    vector = torch.empty(34, dtype=dtype)[::2]
    torch.testing.assert_close(fg.matmul(a[0], b[0, :, 0], out=vector), fg.matmul(a[0], b[0, :, 0]))
    torch.testing.assert_close(fg.matmul(a[0, 0], b, out=torch.empty(18, 2, dtype=dtype).t()), fg.matmul(a[0, 0], b))


def test_out_resizes_with_torchs_warning() -> None:
    a, b, out = rand((3, 4), torch.float32), rand((4, 5), torch.float32), torch.empty(2)
    with pytest.warns(UserWarning, match="resized"):
        fg.mm(a, b, out=out)
    torch.testing.assert_close(out, torch.mm(a, b))


def test_out_overlap() -> None:
    a = rand((6, 6), torch.float32)
    b = rand((6, 6), torch.float32)
    with pytest.raises(RuntimeError, match="single memory location"):
        fg.mm(a, b, out=a)
    with pytest.raises(RuntimeError, match="single memory location"):
        fg.mm(b, a, out=a)
    with pytest.raises(RuntimeError, match="single memory location"):
        fg.mm(a[:3, :3], b[:3, :3], out=torch.empty(1, 1).expand(3, 3))
    rows = rand((8, 4), torch.float32)
    with pytest.raises(RuntimeError, match="single memory location"):
        fg.mm(rows[:4], rows[4:], out=rows[2:6])
    # Strides that torch's test cannot judge: then the result is right all the same.
    grid = rand((6, 12), torch.float32)
    left, right = grid[:, ::2], grid[:, 1::2]
    expected = left.clone() @ b
    torch.testing.assert_close(fg.mm(left, b, out=right), expected)
    square = rand((6, 12), torch.float32)
    expected = square[:, :6].clone() @ b
    torch.testing.assert_close(fg.mm(square[:, :6], b, out=square[:, 3:9]), expected)


def test_out_does_not_differentiate() -> None:
    a = torch.ones(2, 2, requires_grad=True)
    for f in (fg.mm, fg.matmul):
        with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
            f(a, a, out=torch.empty(2, 2))
        with torch.no_grad():
            f(a, a, out=torch.empty(2, 2))


def test_resize_of_an_empty_out_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fg.mm(r(3, 4), r(4, 5), out=torch.empty(0))


# Errors: those of torch, asked in the test

REFUSED = {
    "mm": [
        (r(2, 3), r(2, 3)),
        (r(2, 3, 4), r(2, 3)),
        (r(2, 3), r(3)),
        (r(2, 3), d(3, 2)),
        (r(2, 3), r(3, 2).long()),
        (r(2, 3).bfloat16(), r(3, 2)),
        (t(2, 3), t(3, 2)),
    ],
    "bmm": [
        (r(2, 3), r(2, 3, 4)),
        (r(2, 3, 4), r(2, 3)),
        (r(2, 3, 4), r(2, 3, 4)),
        (r(2, 3, 4), r(3, 4, 5)),
        (r(2, 3, 4), d(2, 4, 5)),
        (t(2, 3, 4), t(2, 4, 5)),
    ],
    "matmul": [
        (r(), r(3)),
        (r(3), r()),
        (r(3), r(4)),
        (r(3), d(3)),
        (r(2, 3), r(4)),
        (r(2, 3), d(3)),
        (r(3), r(4, 5)),
        (r(2, 3), r(4, 5)),
        (r(2, 3), d(3, 5)),
        (r(2, 3, 4), r(5)),
        (r(2, 3, 4), r(5, 6)),
        (r(5), r(2, 3, 4)),
        (r(6, 5), r(2, 3, 4)),
        (r(2, 3, 4), r(3, 4, 5)),
        (r(2, 3, 4), r(2, 3, 5)),
        (r(7, 1, 3, 4), r(2, 5, 5)),
        (r(2, 3, 4), d(2, 4, 5)),
        (t(3), t(3)),
        (t(2, 3), t(3)),
        (t(3), t(3, 2)),
        (t(2, 2, 3), t(2, 3, 2)),
    ],
    "linear": [
        (r(2, 3), r(4, 5)),
        (r(3), r(4, 5)),
        (r(2, 2, 3), r(4, 5)),
        (r(2, 2, 3), r(4, 5), r(4)),
        (r(2, 3), r(4, 3), r(5)),
        (r(2, 2, 3), r(4, 3), r(5)),
        (r(2, 3), r(3), r(2)),
        (r(2, 3), r(3), r()),
        (r(), r(3)),
        (r(3), r()),
        (r(2, 3), r(5, 4, 3)),
        (r(2, 3), d(4, 3)),
        (r(3), d(4, 3)),
        (r(2, 3), r(4, 3), d(4)),
        (t(2, 3), t(4, 3), t(4)),
    ],
}
CASES = [(name, args) for name, cases in REFUSED.items() for args in cases]


def _described(args: Any) -> str:
    return " ".join(f"{x.dtype}{list(x.shape)}" for x in args) if isinstance(args, tuple) else str(args)


@pytest.mark.parametrize(("name", "args"), CASES, ids=_described)
def test_refused_as_in_torch(name: str, args: tuple[Any, ...]) -> None:
    theirs = on_the_cpu(F.linear if name == "linear" else getattr(torch, name))
    with pytest.raises((RuntimeError, NotImplementedError)) as expected:
        theirs(*args)
    with pytest.raises(expected.type) as raised:
        getattr(fg, name)(*args)
    if torch.__version__ < "2.13" and str(raised.value).startswith("addmv input"):
        return  # torch's words from 2.13 on
    assert str(raised.value).split("\n")[0] == str(expected.value).split("\n")[0]


@pytest.mark.parametrize("name", ("mm", "bmm", "matmul"))
def test_out_refused_as_in_torch(name: str) -> None:
    shape = (2, 3, 3) if name == "bmm" else (3, 3)
    a = torch.ones(shape)
    for out in (torch.ones(shape, dtype=torch.float64), torch.ones(1).expand(shape)):
        with pytest.raises(RuntimeError, match=r"Expected out tensor to have dtype float|single memory"):
            getattr(fg, name)(a, a, out=out)
        if name == "mm" or out.dtype == torch.float64:
            with pytest.raises(RuntimeError, match=r"Expected out tensor to have dtype float|single memory"):
                getattr(torch, name)(a, a, out=out)


def test_wrong_types() -> None:
    for ours, theirs in ((fg.mm, torch.mm), (fg.matmul, torch.matmul), (fg.linear, F.linear)):
        for args in ((1, r(3, 3)), (r(3, 3), 1)):
            with pytest.raises(TypeError) as expected:
                theirs(*args)
            with pytest.raises(TypeError) as raised:
                ours(*args)
            assert str(raised.value).split("\n")[0] == str(expected.value).split("\n")[0]
    with pytest.raises(TypeError, match="argument 'activation' must be str, not int"):
        fg.linear(r(3, 3), r(3, 3), activation=1)


def test_not_implemented() -> None:
    with pytest.raises(NotImplementedError, match='activation "gelu"'):
        fg.linear(r(3, 3), r(3, 3), activation="gelu")
    with pytest.raises(NotImplementedError, match="activation for dtype"):
        fg.linear(r(3, 3).long(), r(3, 3).long(), activation="tanh")
    with pytest.raises(NotImplementedError, match="bias of 2 dimensions"):
        fg.linear(r(3, 3), r(3, 3), r(3, 3))
    with pytest.raises(NotImplementedError, match="ComplexFloat"):
        fg.mm(r(3, 3).to(torch.complex64), r(3, 3).to(torch.complex64))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(r(3, 3), r(3, 3))
        for f in (fg.mm, fg.matmul, fg.linear):
            with pytest.raises(NotImplementedError, match="forward-mode"):
                f(dual, r(3, 3))
