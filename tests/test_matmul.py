"""mm, bmm, matmul, linear."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checks import (
    FLOATS,
    assert_accurate,
    check_compiles,
    check_gradients,
    check_op,
    check_reproducible,
    layouts,
    rand,
    small,
)

import fastgrad.functional as fg

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
ACTIVATIONS = (None, "relu", "sigmoid", "tanh")
SIZES = small((0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 127, 129), (0, 1, 7, 17, 33))

# Ulps of |a| @ |b|. 16-bit products are summed in float32: what is left is the rounding to the dtype.
BUDGET = {torch.float32: 3, torch.float64: 3, torch.bfloat16: 0.51, torch.float16: 0.51}

# Pairs of shapes: every combination of ranks, and every way a batch dimension can broadcast.
SHAPES = [
    ((5,), (5,)),
    ((5,), (5, 3)),
    ((4, 5), (5,)),
    ((4, 5), (5, 3)),
    ((2, 4, 5), (5,)),
    ((5,), (2, 5, 3)),
    ((2, 4, 5), (5, 3)),
    ((4, 5), (2, 5, 3)),
    ((2, 4, 5), (2, 5, 3)),
    ((1, 4, 5), (2, 5, 3)),
    ((2, 4, 5), (1, 5, 3)),
    ((3, 1, 4, 5), (2, 5, 3)),
    ((2, 4, 5), (3, 1, 5, 3)),
    ((3, 2, 4, 5), (3, 2, 5, 3)),
    ((3, 1, 4, 5), (1, 2, 5, 3)),
    ((6, 1, 1, 1, 5), (2, 1, 5, 3)),
    ((2, 3, 1, 5), (5, 7)),
    ((2, 3, 4, 5), (5, 1)),
    ((3, 2, 1, 5), (3, 1, 5, 1)),
    ((0, 4, 5), (5, 3)),
    ((0, 4, 5), (1, 5, 3)),
    ((2, 0, 5), (2, 5, 3)),
    ((2, 4, 0), (2, 0, 3)),
    ((2, 4, 0), (0,)),
    ((0,), (0,)),
]


def ids(shapes: Any) -> str:
    return "@".join("x".join(map(str, s)) for s in shapes)


def check_product(
    ours: torch.Tensor, theirs: torch.Tensor, a: torch.Tensor, b: torch.Tensor, what: object = ""
) -> None:
    """Errors are relative to |a| @ |b|: that is what rounding in a sum is proportional to."""
    assert ours.stride() == theirs.stride(), what
    scale = torch.matmul(a.double().abs(), b.double().abs())
    reference = torch.matmul(a.double(), b.double())
    if a.dtype == torch.float64:  # a reference of more digits: the operands are cut in two, so that products are exact
        reference = _exact(a, b)
    assert_accurate(ours, theirs, reference, BUDGET[a.dtype], scale, what)


def _exact(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b in float64 with a sum compensated for rounding (two-sum) over terms split by Dekker's method."""

    def split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c = 134217729.0 * x
        high = c - (c - x)
        return high, x - high

    a2 = a.unsqueeze(-2) if a.dim() == 1 else a
    b2 = b.unsqueeze(-1) if b.dim() == 1 else b
    total = error = torch.zeros(torch.matmul(a2, b2).shape, dtype=torch.float64)
    for k in range(a2.shape[-1]):
        x, y = a2[..., :, k : k + 1], b2[..., k : k + 1, :]
        product = x * y
        (xh, xl), (yh, yl) = split(x), split(y)
        low = ((xh * yh - product) + xh * yl + xl * yh) + xl * yl
        new = total + product
        v = new - total
        error = error + ((total - (new - v)) + (product - v)) + low
        total = new
    return (total + error).reshape(torch.matmul(a, b).shape)


@pytest.mark.parametrize("shapes", SHAPES, ids=ids)
@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul_shapes(shapes: Any, dtype: torch.dtype) -> None:
    a, b = (rand(s, dtype) for s in shapes)
    check_product(fg.matmul(a, b), torch.matmul(a, b), a, b)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shapes", SHAPES, ids=ids)
def test_matmul_integers(shapes: Any, dtype: torch.dtype) -> None:
    a, b = (rand(s, dtype, -100, 100) for s in shapes)
    assert torch.equal(fg.matmul(a, b), torch.matmul(a, b))


def test_integers_wrap_around() -> None:
    a = torch.full((3, 40), 2**62 + 1)
    assert torch.equal(fg.mm(a, a.t()), torch.mm(a, a.t()))
    b = torch.full((3, 300), 127, dtype=torch.int8)
    assert torch.equal(fg.mm(b, b.t()), torch.mm(b, b.t()))


@pytest.mark.parametrize("transposed", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("dtype", FLOATS)
def test_mm_sizes(dtype: torch.dtype, transposed: tuple[bool, bool]) -> None:
    for i, m in enumerate(SIZES):
        for j, n in enumerate(SIZES):
            k = SIZES[(i + 2 * j) % len(SIZES)]
            a = rand((k, m), dtype).t() if transposed[0] else rand((m, k), dtype)
            b = rand((n, k), dtype).t() if transposed[1] else rand((k, n), dtype)
            ours, theirs = fg.mm(a, b), torch.mm(a, b)
            scale = a.double().abs() @ b.double().abs()
            assert_accurate(ours, theirs, a.double() @ b.double(), BUDGET[dtype], scale, (m, n, k))


@pytest.mark.parametrize("dtype", FLOATS)
def test_long_sums_and_many_blocks(dtype: torch.dtype) -> None:
    for m, n, k in small(((3, 5, 4099), (259, 130, 1025), (1, 1, 5000), (70, 1201, 33)), ((3, 5, 1031),)):
        a, b = rand((m, k), dtype), rand((k, n), dtype)
        ours, theirs = fg.matmul(a, b), torch.matmul(a, b)
        scale = a.double().abs() @ b.double().abs()
        assert_accurate(ours, theirs, a.double() @ b.double(), BUDGET[dtype], scale, (m, n, k))


@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts(dtype: torch.dtype) -> None:
    for shapes in (((19, 21), (21, 18)), ((2, 7, 9), (9, 8)), ((2, 3, 7, 9), (3, 9, 8)), ((3, 40), (40, 1))):
        a, b = (rand(s, dtype) for s in shapes)
        for (name_a, x), (name_b, y) in itertools.product(layouts(a), layouts(b)):
            check_product(fg.matmul(x, y), torch.matmul(x, y), x, y, (shapes, name_a, name_b))


def test_layouts_of_integers() -> None:
    a, b = rand((2, 7, 9), torch.int32), rand((9, 8), torch.int32)
    for (_, x), (_, y) in itertools.product(layouts(a), layouts(b)):
        assert torch.equal(fg.matmul(x, y), torch.matmul(x, y))


def test_expanded_operands_are_not_copied() -> None:
    """Broadcasting costs strides, not memory: a copy of this operand would not fit in any machine."""
    a = torch.ones(1, 1, 3).expand(1, 1, 3)
    b = torch.ones(3, 1).expand(3, 2**50)[:, :4]
    assert torch.equal(fg.matmul(a, b), torch.full((1, 1, 4), 3.0))
    ones = torch.ones(()).expand(50, 60)
    assert torch.equal(fg.mm(ones, ones.t()), torch.full((50, 50), 60.0))


def test_special_values() -> None:
    a = torch.tensor([[math.inf, 1.0], [math.nan, 0.0], [0.0, -math.inf]])
    b = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    assert torch.equal(fg.mm(a, b).nan_to_num(77), torch.mm(a, b).nan_to_num(77))
    # The elements beside a NaN stay clean, also in a partly filled register.
    c = torch.ones(13, 5)
    c[4, 2] = math.nan
    assert fg.mm(c, torch.ones(5, 7)).isnan().any(dim=1).nonzero().flatten().tolist() == [4]


def test_empty_inner_dimension_gives_zeros() -> None:
    torch.empty(64).fill_(math.nan)  # what the allocator hands out next
    assert torch.equal(fg.mm(torch.ones(8, 0), torch.ones(0, 8)), torch.zeros(8, 8))
    bias = rand((3,), torch.float32)
    expected = bias.sigmoid().expand(4, 3)
    torch.testing.assert_close(fg.linear(torch.ones(4, 0), torch.ones(3, 0), bias, activation="sigmoid"), expected)


# linear


LINEAR = [
    ((5,), (3, 5)),
    ((4, 5), (3, 5)),
    ((64, 8), (1, 8)),
    ((1, 8), (33, 8)),
    ((2, 4, 5), (3, 5)),
    ((2, 3, 4, 5), (1, 5)),
    ((17, 130), (65, 130)),
    ((0, 5), (3, 5)),
    ((4, 5), (0, 5)),
    ((4, 0), (3, 0)),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shapes", LINEAR, ids=ids)
def test_linear(shapes: Any, dtype: torch.dtype, activation: str | None) -> None:
    x, w = (rand(s, dtype, -1, 1) for s in shapes)
    function: Callable[..., Any] = getattr(torch, activation) if activation else lambda t: t
    n = w.shape[0]
    for bias in (None, *(rand(s, dtype) for s in ((n,), (1,), ())), rand((2 * n,), dtype)[::2]):
        b = 0.0 if bias is None else bias.double()
        reference = function(x.double() @ w.double().t() + b)
        theirs = function(F.linear(x, w, None if bias is None else bias.expand(n)))
        ours = fg.linear(x, w, bias, activation=activation)
        assert ours.stride() == theirs.stride()
        # Every activation is 1-Lipschitz; in float32 and float64 it adds 2.5 ulp of its own.
        scale = x.double().abs() @ w.double().abs().t() + abs(b)
        assert_accurate(ours, theirs, reference, BUDGET[dtype] + (2.5 if dtype.itemsize > 2 else 0), scale, shapes)


def test_linear_layouts() -> None:
    x, w, b = rand((6, 7, 13), torch.float32), rand((5, 13), torch.float32), rand((5,), torch.float32)
    for (name_x, xv), (name_w, wv) in itertools.product(layouts(x), layouts(w)):
        ours, theirs = fg.linear(xv, wv, b, activation="tanh"), torch.tanh(F.linear(xv, wv, b))
        reference = torch.tanh(F.linear(xv.double(), wv.double(), b.double()))
        scale = F.linear(xv.double().abs(), wv.double().abs(), b.double().abs())
        assert_accurate(ours, theirs, reference, 5.5, scale, (name_x, name_w))


def test_linear_epilogue_is_the_activation_itself() -> None:
    """Fused and unfused give the same bits in the dtypes that are not rounded in between."""
    for dtype in (torch.float32, torch.float64):
        x, w, b = rand((37, 50), dtype), rand((43, 50), dtype), rand((43,), dtype)
        for activation in ("relu", "sigmoid", "tanh"):
            fused = fg.linear(x, w, b, activation=activation)
            assert torch.equal(fused, getattr(fg, activation)(fg.linear(x, w, b)))


def test_linear_vector_weight() -> None:
    w = rand((5,), torch.float64)
    for shape in ((5,), (4, 5), (2, 3, 5)):
        x = rand(shape, torch.float64)
        torch.testing.assert_close(fg.linear(x, w), F.linear(x, w))
    x, b = rand((5,), torch.float64), rand((), torch.float64)
    torch.testing.assert_close(fg.linear(x, w, b), F.linear(x, w, b))


def test_linear_integers() -> None:
    x, w, b = (rand(s, torch.int64, -100, 100) for s in ((4, 5), (3, 5), (3,)))
    assert torch.equal(fg.linear(x, w, b), F.linear(x, w, b))


def test_linear_relu_keeps_nan() -> None:
    x = torch.tensor([[math.nan, 1.0], [-1.0, 0.0]])
    assert fg.linear(x, torch.eye(2), activation="relu")[0].isnan().all()


# out=


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


# Errors: those of torch, asked in the test


def r(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


def d(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.float64)


def t(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


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
    theirs = F.linear if name == "linear" else getattr(torch, name)
    with pytest.raises((RuntimeError, NotImplementedError)) as expected:
        theirs(*args)
    with pytest.raises(expected.type) as raised:
        getattr(fg, name)(*args)
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


# Derivatives


def leaf(shape: Any) -> torch.Tensor:
    return rand(shape, torch.float64).requires_grad_()


@pytest.mark.parametrize("shapes", [s for s in SHAPES if 0 not in s[0]], ids=ids)
def test_matmul_gradients(shapes: Any) -> None:
    check_gradients(fg.matmul, [leaf(s) for s in shapes])


@pytest.mark.parametrize("shapes", SHAPES, ids=ids)
def test_matmul_gradients_against_torch(shapes: Any) -> None:
    """Also empty tensors, and each operand alone: only what is wanted is computed."""
    for wanted in ((True, True), (True, False), (False, True)):
        ours = [rand(s, torch.float64).requires_grad_(w) for s, w in zip(shapes, wanted, strict=True)]
        theirs = [x.detach().clone().requires_grad_(x.requires_grad) for x in ours]
        y, z = fg.matmul(*ours), torch.matmul(*theirs)
        grad = rand(y.shape, torch.float64)
        y.backward(grad)
        z.backward(grad)
        for a, b in zip(ours, theirs, strict=True):
            assert (a.grad is None) == (b.grad is None)
            if a.grad is not None:
                torch.testing.assert_close(a.grad, b.grad)


def test_mm_bmm_gradients() -> None:
    check_gradients(fg.mm, [leaf((4, 5)), leaf((5, 3))])
    check_gradients(fg.bmm, [leaf((2, 4, 5)), leaf((2, 5, 3))])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_gradients(activation: str | None) -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        return fg.linear(x, w, b, activation=activation)

    check_gradients(f, [leaf((4, 5)), leaf((3, 5)), leaf((3,))])
    check_gradients(f, [leaf((2, 3, 5)), leaf((4, 5)), leaf((4,))])
    check_gradients(f, [leaf((5,)), leaf((3, 5)), leaf((1,))], second=False)
    check_gradients(f, [leaf((4, 5)), leaf((3, 5)), leaf(())], second=False)
    check_gradients(f, [leaf((4, 5)), leaf((3, 5))])
    check_gradients(f, [leaf((2, 4, 5)), leaf((5,))])
    check_gradients(f, [leaf((5,)), leaf((5,)), leaf(())], second=False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=3))[1:])
def test_linear_needs_input_grad(wanted: tuple[bool, ...], activation: str | None) -> None:
    shapes = ((2, 6, 5), (3, 5), (3,))
    ours = [rand(s, torch.float64).requires_grad_(w) for s, w in zip(shapes, wanted, strict=True)]
    theirs = [x.detach().clone().requires_grad_(x.requires_grad) for x in ours]
    y = fg.linear(*ours, activation=activation)
    z = F.linear(*theirs)
    z = getattr(torch, activation)(z) if activation else z
    grad = rand(y.shape, torch.float64)
    y.backward(grad)
    z.backward(grad)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_linear_saves_only_what_backward_needs() -> None:
    saved: list[torch.Tensor] = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        saved.append(x)
        return x

    x, w, b = leaf((4, 5)), leaf((3, 5)), leaf((3,))
    for args, activation, expected in (
        ((x, w, b), None, [x, w]),
        ((x, w, b), "tanh", [x, w, None]),
        ((x.detach(), w, b), None, [x]),
        ((x, w.detach(), b.detach()), None, [w]),
        ((x.detach(), w.detach(), b), None, []),
    ):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = fg.linear(*args, activation=activation)
        pointers = [(y if e is None else e).data_ptr() for e in expected]
        assert [s.data_ptr() for s in saved] == pointers


def test_modified_operand_is_noticed() -> None:
    x, w = leaf((4, 5)), leaf((3, 5))
    y = fg.linear(x, w)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# The dispatcher's other layers


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.int64))
def test_opcheck(dtype: torch.dtype) -> None:
    def x(*shape: int) -> torch.Tensor:
        v = rand(shape, dtype)
        return v.requires_grad_() if dtype.is_floating_point else v

    ops = torch.ops.fastgrad
    check_op(ops.mm.default, (x(4, 5), x(5, 3)))
    check_op(ops.mm.default, (x(5, 4).t(), x(3, 5).t()))
    check_op(ops.bmm.default, (x(2, 4, 5), x(2, 3, 5).mT))
    for a, b in SHAPES:
        check_op(ops.matmul.default, (x(*a), x(*b)))
    check_op(ops.matmul.default, (x(4, 2, 5).transpose(0, 1), x(5, 3)))
    check_op(ops.mm.out, (rand((4, 5), dtype), rand((5, 3), dtype)), {"out": torch.empty(4, 3, dtype=dtype)})
    for activation in ACTIVATIONS if dtype.is_floating_point else (None,):
        check_op(ops.linear.default, (x(4, 5), x(3, 5), x(3)), {"activation": activation})
        check_op(ops.linear.default, (x(2, 4, 5), x(3, 5)), {"activation": activation})
        check_op(ops.linear.default, (x(5), x(3, 5), x(1)), {"activation": activation})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_compile_linear(activation: str | None) -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return fg.linear(x, w, b, activation=activation)

    check_compiles(f, [rand(s, torch.float32).requires_grad_() for s in ((2, 4, 5), (3, 5), (3,))])


@pytest.mark.parametrize("shapes", [((4, 5), (5, 3)), ((5,), (2, 5, 3)), ((3, 1, 4, 5), (2, 5, 3))], ids=ids)
def test_compile_matmul(shapes: Any) -> None:
    check_compiles(fg.matmul, [rand(s, torch.float32).requires_grad_() for s in shapes])


def test_compile_dynamic_shapes() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(fg.matmul, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (3, 5, 8):
        a, b = (rand(s, torch.float64).requires_grad_() for s in ((2, n, 5), (5, n)))
        y = compiled(a, b)
        torch.testing.assert_close(y, torch.matmul(a, b))
        ours = torch.autograd.grad(y.sin().sum(), (a, b))
        theirs = torch.autograd.grad(torch.matmul(a, b).sin().sum(), (a, b))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_autocast(dtype: torch.dtype) -> None:
    x, w, b = (rand(s, torch.float32).requires_grad_() for s in ((2, 4, 5), (3, 5), (3,)))
    with torch.autocast("cpu", dtype=dtype):
        for ours, theirs in (
            (fg.linear(x, w, b), F.linear(x, w, b)),
            (fg.matmul(x, w.t()), torch.matmul(x, w.t())),
            (fg.mm(x[0], w.t()), torch.mm(x[0], w.t())),
            (fg.bmm(x, x.mT), torch.bmm(x, x.mT)),
            (fg.mm(x[0].double(), w.t().double()), torch.mm(x[0].double(), w.t().double())),
        ):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs)
        ours = fg.linear(x, w, b, activation="relu")
    assert ours.dtype == dtype
    grads = torch.autograd.grad(ours.float().sum(), (x, w, b))
    assert [g.dtype for g in grads] == [torch.float32] * 3


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.int32))
def test_reproducible(dtype: torch.dtype) -> None:
    n = small(1, 8)
    a, b = rand((257 // n, 300 // n), dtype), rand((300 // n, 131 // n), dtype)
    check_reproducible(lambda: fg.mm(a, b))
    c, e = rand((5, 67, 130), dtype), rand((5, 130, 3), dtype)
    check_reproducible(lambda: fg.matmul(c, e))
    check_reproducible(lambda: fg.matmul(a, b[:, 0]))
    if dtype.is_floating_point:
        x, w, v = (rand(s, dtype).requires_grad_() for s in ((300, 130), (70, 130), (70,)))

        def backward() -> Any:
            y = fg.linear(x, w, v, activation="tanh")
            return y, *torch.autograd.grad(y.float().sin().sum(), (x, w, v))

        check_reproducible(backward)


def test_resize_of_an_empty_out_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fg.mm(r(3, 4), r(4, 5), out=torch.empty(0))
