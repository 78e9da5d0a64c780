"""Arithmetic, comparisons, elementary functions: values and dtypes against torch, gradients, compilation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from checks import (
    FLOATS,
    INTEGERS,
    assert_accurate,
    check_compiles,
    check_gradients,
    check_op,
    check_reproducible,
    layouts,
    narrow,
    on_the_cpu,
    rand,
    same,
    small,
    wide,
)

import fastgrad.functional as F

BINARY = ("add", "sub", "mul", "div", "pow")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
UNARY = ("neg", "abs", "sqrt", "exp", "log")
ULPS = {"exp": 1.5, "log": 1.5, "pow": 1.0}
ALL = (*FLOATS, *INTEGERS, torch.int16, torch.int8, torch.bool)


def outcome(f: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return f(*args, **kwargs)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", (*BINARY, *COMPARISONS))
def test_every_pair_of_dtypes(name: str) -> None:
    """Same dtype and, up to the rounding of each dtype, the same values as torch, or the same kind of error."""
    ours, theirs = getattr(F, name), getattr(torch, name)
    for a, b in itertools.product(ALL, ALL):
        x, y = rand((3, 5), a, 0, 5), rand((5,), b, 0, 5)
        if name == "div" and not b.is_floating_point:
            y = y + (y == 0).to(b)
        r, t = outcome(ours, x, y), outcome(theirs, x, y)
        if isinstance(t, type) or isinstance(r, type):
            assert r is t, (name, a, b, r, t)
        elif r.is_floating_point():
            exact = _binary_reference(name, x, y)
            assert_accurate(r, t, exact, ULPS.get(name, 0.5), what=(name, a, b))
        else:
            same(r, t, (name, a, b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_number_of_16_bits(dtype: torch.dtype) -> None:
    """With random others, adjacent and strided, and as the elements of a reduction."""
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    for name in ("add", "mul", "div"):
        for n in (x.numel(), x.numel() - 15):
            y = x[torch.randperm(x.numel())][:n]
            for a, b in ((x[:n], y), (torch.stack((x[:n], y), 1)[:, 0], y)):
                same(getattr(F, name)(a, b), getattr(torch, name)(a, b), (name, n))
    for width in (16, 32, 1024):
        same(F.amax(x.view(-1, width), 1), torch.amax(x.view(-1, width), 1), width)


def _binary_reference(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power}[name]
    return narrow(function(wide(x), wide(y)))


@pytest.mark.parametrize("name", (*BINARY, *COMPARISONS))
def test_numbers_on_either_side(name: str) -> None:
    ours, theirs = getattr(F, name), getattr(torch, name)
    for dtype, number in itertools.product(ALL, (2, 1.5, True, -1)):
        x = rand((7,), dtype, 1, 4)
        r, t = outcome(ours, x, number), outcome(theirs, x, number)
        if isinstance(t, type) or isinstance(r, type):
            assert r is t, (name, dtype, number, r, t)
        else:
            assert r.dtype == t.dtype, (name, dtype, number)
            torch.testing.assert_close(r, t, equal_nan=True)
        zero_dim = rand((), dtype, 1, 4)
        r, t = outcome(ours, zero_dim, number), outcome(theirs, zero_dim, number)
        assert r is t if isinstance(t, type) else r.dtype == t.dtype, (name, dtype, number)
        if name in BINARY and not (dtype == torch.bool and name in ("sub", "pow")):
            r = outcome(ours, number, x)
            t = outcome(torch.pow, number, x) if name == "pow" else outcome(theirs, torch.tensor(number), x)
            if isinstance(r, type) or isinstance(t, type):
                assert r is t, (name, dtype, number, r, t)
                continue
            reference = theirs(torch.tensor(float(number)), x.double())
            if r.is_floating_point():
                torch.testing.assert_close(r.double(), reference, rtol=1e-2, atol=1e-2, equal_nan=True)
            else:
                torch.testing.assert_close(r, t.to(r.dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", UNARY)
def test_unary_accuracy(name: str, dtype: torch.dtype) -> None:
    ours, theirs = getattr(F, name), getattr(torch, name)
    for shape in ((), (0,), (1,), (17,), (33, 5), (3, 4099)):
        for layout, x in layouts(rand(shape, dtype, -3 if name in ("neg", "abs", "exp") else 1e-3, 30)):
            reference = _reference(name, x)
            assert_accurate(ours(x), theirs(x), reference, ULPS.get(name, 0.5), what=(shape, layout))
            assert ours(x).stride() == theirs(x).stride()


def _reference(name: str, x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.float64:
        return getattr(torch, name)(x.double())
    if name == "sqrt":  # rounded once by IEEE 754; a root in long double would be rounded twice
        return narrow(np.sqrt(wide(x).astype(np.float64)))
    function = {"neg": np.negative, "abs": np.abs, "exp": np.exp, "log": np.log}[name]
    return narrow(function(wide(x)))


@pytest.mark.parametrize("dtype", (*INTEGERS, torch.int16, torch.int8, torch.bool))
@pytest.mark.parametrize("name", UNARY)
def test_unary_integers(name: str, dtype: torch.dtype) -> None:
    x = rand((19,), dtype, -5, 5)
    r, t = outcome(getattr(F, name), x), outcome(on_the_cpu(getattr(torch, name)), x)
    if isinstance(r, type) or isinstance(t, type):
        assert r is t, (name, dtype, r, t)
    else:
        assert r.dtype == t.dtype
        torch.testing.assert_close(r, t, equal_nan=True)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_exp_and_log_over_the_whole_range(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    n = small(200_001, 20_001)
    top = float(np.log(info.max))
    x = torch.linspace(-top - 20, top + 5, n, dtype=torch.float64).to(dtype)
    with np.errstate(over="ignore", under="ignore"):
        reference = narrow(np.exp(wide(x)))
    # Subnormal results have an absolute precision.
    assert_accurate(
        F.exp(x), torch.exp(x), torch.where(reference > info.max, torch.inf, reference), 1.5, scale=info.tiny
    )
    smallest = info.tiny * info.eps
    positive = torch.exp2(torch.linspace(np.log2(smallest), np.log2(info.max) - 1e-9, n, dtype=torch.float64)).to(dtype)
    reference = narrow(np.log(wide(positive)))
    assert_accurate(F.log(positive), torch.log(positive), reference, 1.5)


SPECIAL = tuple(map(float, "0 -0 1 -1 0.5 -0.5 2 -2 3 -3 1e30 -1e30 1e-30 inf -inf nan".split()))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("name", (*BINARY, *COMPARISONS))
def test_special_values(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor(SPECIAL, dtype=dtype)
    ours, theirs = getattr(F, name)(x[:, None], x), getattr(torch, name)(x[:, None], x)
    torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("mode", ("floor", "trunc"))
def test_rounded_division(mode: str, dtype: torch.dtype) -> None:
    x = torch.tensor([v for v in SPECIAL if abs(v) != 1e30], dtype=dtype)
    same(F.div(x[:, None], x, rounding_mode=mode), torch.div(x[:, None], x, rounding_mode=mode), "special")
    a, b = rand((20_000,), dtype, -100, 100), rand((20_000,), dtype, -7, 7)
    same(F.div(a, b, rounding_mode=mode), torch.div(a, b, rounding_mode=mode), "random")
    big = a * 1e12
    same(F.div(big, b, rounding_mode=mode), torch.div(big, b, rounding_mode=mode), "large quotients")
    a, b = a.round(), b.round()
    same(F.div(a, b, rounding_mode=mode), torch.div(a, b, rounding_mode=mode), "whole")


@pytest.mark.parametrize("dtype", (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8))
@pytest.mark.parametrize("mode", ("floor", "trunc"))
def test_rounded_integer_division(mode: str, dtype: torch.dtype) -> None:
    a, b = rand((101,), dtype, -100, 100), rand((101,), dtype, -7, 7)
    b = torch.where(b == 0, torch.ones_like(b), b)
    same(F.div(a, b, rounding_mode=mode), torch.div(a, b, rounding_mode=mode))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        F.div(a, 0, rounding_mode=mode)
    info = torch.iinfo(dtype)
    if info.min < 0:  # the one quotient that overflows wraps and does not trap
        edge = torch.tensor([info.min], dtype=dtype)
        assert F.div(edge, -1, rounding_mode=mode).item() == info.min
    else:  # 255 is no -1
        a, b = torch.arange(256).to(dtype), torch.arange(1, 256).to(dtype)[:, None]
        same(F.div(a, b, rounding_mode=mode), torch.div(a, b, rounding_mode=mode))


def test_bad_rounding_mode() -> None:
    with pytest.raises(RuntimeError, match="rounding_mode"):
        F.div(torch.ones(2), 2, rounding_mode="ceil")


def test_alpha() -> None:
    x, y = rand((4, 5), torch.float32), rand((5,), torch.float32)
    torch.testing.assert_close(F.add(x, y, alpha=2.5), torch.add(x, y, alpha=2.5))
    torch.testing.assert_close(F.sub(x, y, alpha=-3), torch.sub(x, y, alpha=-3))
    i = rand((4,), torch.int64)
    same(F.add(i, i, alpha=3), torch.add(i, i, alpha=3))
    big = torch.tensor([2**53 + 1])
    same(F.add(big, big, alpha=2**9 + 1), torch.add(big, big, alpha=2**9 + 1))
    for bad in (2.5, True):
        with pytest.raises(RuntimeError, match="alpha"):
            F.add(i, i, alpha=bad)


@pytest.mark.parametrize("name", ("add_", "sub_", "mul_", "div_"))
def test_in_place(name: str) -> None:
    for _, x in layouts(rand((5, 7), torch.float32, 1, 3)):
        if 0 in x.stride():
            continue
        y = rand((7,), torch.float32, 1, 3)
        expected = getattr(x.clone(), name)(y)
        version = x._version
        assert getattr(F, name)(x, y) is x
        assert x._version == version + 1
        torch.testing.assert_close(x, expected)
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        getattr(F, name)(torch.ones(3), torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="can't be cast"):
        getattr(F, name)(torch.ones(3, dtype=torch.int64), 1.5)
    base = torch.ones(4)
    with pytest.raises(RuntimeError, match="memory"):
        getattr(F, name)(base[1:], base[:-1])


def test_out() -> None:
    x, y = rand((4, 6), torch.float32), rand((6,), torch.float32)
    out = torch.full((4, 6), float("nan"), dtype=torch.float64)
    assert F.add(x, y, out=out) is out
    torch.testing.assert_close(out, (x + y).double())
    with pytest.raises(RuntimeError, match="can't be cast"):
        F.mul(x, y, out=torch.empty(4, 6, dtype=torch.int32))
    flags = torch.empty(4, 6)
    same(F.lt(x, y, out=flags), torch.lt(x, y, out=torch.empty(4, 6)))
    for call in (lambda o: F.sub(x, y, out=o), lambda o: F.exp(x, out=o), lambda o: F.mul(x, y, out=o)):
        with pytest.warns(UserWarning, match="resized"):
            assert call(torch.empty(5)).shape == (4, 6)


@pytest.mark.parametrize("name", BINARY)
def test_binary_gradients(name: str) -> None:
    x = rand((4, 5), torch.float64, 0.5, 3).requires_grad_()
    y = rand((5,), torch.float64, 0.5, 3).requires_grad_()
    check_gradients(getattr(F, name), (x, y))
    check_gradients(lambda a: getattr(F, name)(a, 2.5), (x,), second=True)
    check_gradients(lambda a: getattr(F, name)(2.5, a), (x,), second=True)


@pytest.mark.parametrize("name", UNARY)
def test_unary_gradients(name: str) -> None:
    check_gradients(getattr(F, name), (rand((4, 5), torch.float64, 0.5, 3).requires_grad_(),))


def test_rounded_division_has_zero_gradient() -> None:
    x = rand((4, 5), torch.float64, 0.5, 3).requires_grad_()
    (g,) = torch.autograd.grad(F.div(x, 2.0, rounding_mode="floor").sum(), x)
    assert torch.equal(g, torch.zeros_like(x))


@pytest.mark.parametrize("name", ("add", "sub", "mul", "div"))
def test_in_place_gradients(name: str) -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = x * 1.0
        getattr(F, name + "_")(z, y)
        return z * z

    x = rand((4, 5), torch.float64, 0.5, 3).requires_grad_()
    y = rand((5,), torch.float64, 0.5, 3).requires_grad_()
    check_gradients(f, (x, y))


def test_gradients_keep_the_dtype_of_each_input() -> None:
    x = rand((4,), torch.bfloat16).requires_grad_()
    y = rand((3, 4), torch.float32).requires_grad_()
    F.mul(x, y).sum().backward()
    assert x.grad.dtype == torch.bfloat16 and y.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_of_a_broadcast_factor(dtype: torch.dtype) -> None:
    """The sum of a product in one pass, over every kind of dimension, and operands of every layout."""
    m, n = small((300, 70), (33, 17))
    cases = [((m, n), (n,)), ((m, n), (m, 1)), ((5, n, m), (n, 1)), ((5, n, m), (5, 1, m)), ((2, m, n), ())]
    for shape, factor in (*cases, ((1, m), (n, 1)), ((0, 7), (7,)), ((7, 0), (7, 1))):
        whole = torch.broadcast_shapes(shape, factor)
        for (layout, x), (_, g) in zip(layouts(rand(shape, dtype)), layouts(rand(whole, dtype)), strict=True):
            y = rand(factor, dtype).requires_grad_()
            (ours,) = torch.autograd.grad(F.mul(x, y), y, g)
            (theirs,) = torch.autograd.grad(torch.mul(x, y), y, g)
            sums, scale = ((x.double() * g.double()).sum_to_size(factor), (x * g).double().abs().sum_to_size(factor))
            assert_accurate(ours, theirs, sums, 6, scale, (shape, factor, layout))
            assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("name", (*BINARY, *COMPARISONS))
def test_binary_registration(name: str) -> None:
    x, y = rand((3, 4), torch.float32, 1, 2), rand((4,), torch.float32, 1, 2)
    op = getattr(torch.ops.fastgrad, name)
    check_op(op.default, (x, y))
    check_op(op.default, (x.requires_grad_(), y.requires_grad_()))
    out = torch.empty(3, 4, dtype=torch.bool if name in COMPARISONS else torch.float32)
    check_op(op.out, (x.detach(), y.detach()), {"out": out})


@pytest.mark.parametrize("name", ("add_", "sub_", "mul_", "div_", "div_floor_", "div_trunc_"))
def test_in_place_registration(name: str) -> None:
    op = getattr(torch.ops.fastgrad, name)
    check_op(op.default, (rand((3, 4), torch.float32, 1, 2), rand((4,), torch.float32, 1, 2)))


@pytest.mark.parametrize("name", (*UNARY, "abs_backward", "sqrt_backward"))
def test_unary_registration(name: str) -> None:
    x = rand((3, 4), torch.float32, 1, 2)
    op = getattr(torch.ops.fastgrad, name)
    args = (x, x + 1) if "backward" in name else (x,)
    check_op(op.default, args)
    check_op(op.default, tuple(a.clone().requires_grad_() for a in args))


def test_compiles() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> Any:
        a = F.add(x, y, alpha=2)
        b = F.div(F.mul(a, 2.5), F.sub(7, y))
        F.add_(b, 1)
        F.mul_(b, y)
        c = F.pow(F.abs(b), 1.5)
        return c, F.div(c, 2, rounding_mode="floor"), F.lt(x, 0.5), F.log(F.exp(F.neg(F.sqrt(F.abs(x)))))

    x, y = rand((3, 4), torch.float32, 0.5, 2), rand((4,), torch.float32, 0.5, 2)
    check_compiles(f, (x.requires_grad_(), y.requires_grad_()))
    check_compiles(f, (x[0, 0].detach().requires_grad_(), y[0].detach().requires_grad_()))
    check_compiles(lambda x, y: f(x, y)[0], (x.bfloat16().detach(), y.bfloat16().detach()))


def test_reproducible() -> None:
    x, y = rand((301, 333), torch.float32), rand((333,), torch.float64)
    check_reproducible(lambda: (F.mul(x, y), F.pow(F.abs(x), y.float()), F.add(x.t(), 1.5)))


def test_bad_arguments() -> None:
    x = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"size of tensor a \(3\) must match the size of tensor b \(4\)"):
        F.add(x, torch.ones(4))
    with pytest.raises(TypeError, match="argument 'other'"):
        F.mul(x, "2")
    with pytest.raises(RuntimeError, match="bool"):
        F.sub(x > 0, x > 0)
    with pytest.raises(RuntimeError, match="bool"):
        F.neg(x > 0)
    with pytest.raises(RuntimeError, match="device"):
        F.add(x, torch.ones(3, device="meta"))
    for y, dims in ((x[:2], [0]), (x.double(), [0]), (x, [])):
        with pytest.raises(RuntimeError, match="sum_product"):
            torch.ops.fastgrad.sum_product(x, y, dims)


def test_more_than_two_to_the_31_elements() -> None:
    n = small(2**31 + 5, 2**17 + 5)  # expanded; the result is one byte an element
    x = torch.tensor([3], dtype=torch.int8).expand(n)
    y = F.eq(x, 3)
    assert y.shape == (n,) and bool(y[0]) and bool(y[-1]) and bool(y[n // 2])
