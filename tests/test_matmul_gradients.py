"""mm, bmm, matmul, linear: derivatives, and the dispatcher's other layers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checks import check_compiles, check_gradients, check_op, check_reproducible, once, rand, small
from matmul_cases import ACTIVATIONS, SHAPES, ids, leaf
from torch.profiler import profile

import fastgrad.functional as fg

MOST = small(80, 50)  # elements: each costs several products, of which one takes the emulator a millisecond


@pytest.mark.parametrize(
    "shapes", [s for s in SHAPES if 0 < math.prod(s[0]) + math.prod(s[1]) <= MOST and 0 not in s[0]], ids=ids
)
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


def test_nothing_is_copied() -> None:
    """Transposes and broadcasts are strides, forward and backward."""

    def copies(f: Any) -> set[str]:
        with profile() as p:
            f()
        names = {e.key for e in p.key_averages()}
        assert any(n.startswith("fastgrad::") for n in names)
        return names & {"aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy"}

    a, b, w, v = leaf((3, 1, 4, 5)), leaf((2, 5, 6)), leaf((7, 5)), leaf((7,))
    x = leaf((2, 4, 5))
    assert not copies(lambda: fg.matmul(a, b).backward(torch.ones(3, 2, 4, 6, dtype=torch.float64)))
    assert not copies(lambda: fg.matmul(a.mT.detach(), b.mT[..., :4, :].mT.detach()[:, :4]))
    assert not copies(lambda: fg.linear(x, w, v, activation="tanh").sum().backward())
    assert not copies(lambda: fg.mm(w.t().detach(), torch.ones((), dtype=torch.float64).expand(7, 3)))
    # A layout with no strides for (rows, n) is copied: this test can fail.
    turned = leaf((4, 2, 5)).transpose(0, 1)
    assert copies(lambda: fg.linear(turned, w).sum().backward())


@once
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


@pytest.mark.cpu
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
