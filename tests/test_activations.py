"""relu, sigmoid, tanh: values, layouts, gradients, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    small,
    wide,
)

import fastgrad.functional as F

NAMES = ("relu", "sigmoid", "tanh")
# Units in the last place; see docs/numerics.md.
ULPS = {"relu": 0, "sigmoid": 2.5, "tanh": 2.5}
SHAPES = ((), (0,), (1,), (7,), (16,), (17,), (33, 5), (0, 3), (3, 1000), (2, 3, 4, 5), (5, 7001))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_and_layouts(name: str, dtype: torch.dtype) -> None:
    ours, theirs = getattr(F, name), getattr(torch, name)
    for shape in SHAPES:
        for layout, x in layouts(rand(shape, dtype)):
            reference = theirs(x.double()) if dtype != torch.float64 else _long_double(name, x)
            y = ours(x)
            assert y.stride() == theirs(x).stride()
            assert_accurate(y, theirs(x), reference, ULPS[name], what=(shape, layout))


def _long_double(name: str, x: torch.Tensor) -> torch.Tensor:
    """The float64 reference: computed in numpy's long double (80 bits on x86), rounded once."""
    import numpy as np

    v = wide(x)
    y = {"relu": lambda: np.maximum(v, 0), "sigmoid": lambda: 1 / (1 + np.exp(-v)), "tanh": lambda: np.tanh(v)}[name]()
    return narrow(y)


@pytest.mark.parametrize("name", ("sigmoid", "tanh"))
def test_accuracy_over_the_whole_range(name: str) -> None:
    # Every exponent: magnitudes from subnormal to 100, of both signs.
    exponents = torch.linspace(-140, 6.6, small(200_001, 20_001), dtype=torch.float64)
    x = (torch.sign(torch.randn_like(exponents)) * 2**exponents).float()
    assert_accurate(getattr(F, name)(x), getattr(torch, name)(x), getattr(torch, name)(x.double()), ULPS[name])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e4, -1e4], dtype=dtype)
    ours, theirs = getattr(F, name)(x), getattr(torch, name)(x)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(0.5), theirs.nan_to_num(0.5))
    # On CUDA torch's relu(-0.0) is 0.0.
    assert torch.equal(ours.signbit()[:2], on_the_cpu(getattr(torch, name))(x).signbit()[:2])


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("name", ("exp", "log", "sigmoid", "tanh"))
def test_neighbours_do_not_count(name: str, dtype: torch.dtype) -> None:
    # A register whose lanes are all ordinary may be computed in fewer steps: to the same bits.
    f = getattr(F, name)
    x = rand((4099,), torch.float32).abs_().mul_(torch.exp2(torch.randint(-120, 6, (4099,)))).to(dtype)
    if name != "log":
        x = x * torch.where(torch.rand(4099) < 0.5, 1, -1).to(x)
    alone = f(x)
    for extreme in (
        float("nan"),
        float("inf"),
        -float("inf"),
        0.0,
        88.6,
        -87.2,
        -95.0,
        -103.9,
        -1e9,
        1e-40,
        709.5,
        -740.0,
    ):
        among = x.clone()
        among[::7] = extreme
        result = f(among)
        result[::7] = alone[::7]
        assert torch.equal(result, alone), extreme


@pytest.mark.parametrize("dtype", (*INTEGERS, torch.bool))
@pytest.mark.parametrize("name", NAMES)
def test_integers(name: str, dtype: torch.dtype) -> None:
    x = rand((37,), dtype)
    if name == "relu" and dtype == torch.bool:
        with pytest.raises(RuntimeError, match="Boolean inputs not supported"):
            F.relu(x)
        return
    assert_accurate(getattr(F, name)(x), getattr(torch, name)(x), getattr(torch, name)(x.double()), ULPS[name])


@pytest.mark.parametrize("name", ("relu_", "sigmoid_"))
def test_in_place(name: str) -> None:
    for layout, x in layouts(rand((5, 7), torch.float32)):
        if layout == "expanded":
            with pytest.raises(RuntimeError, match="more than one element"):
                getattr(F, name)(x)
            continue
        version, expected = x._version, getattr(torch, name[:-1])(x)
        assert getattr(F, name)(x) is x
        assert x._version == version + 1
        torch.testing.assert_close(x, expected)


def test_out() -> None:
    x = rand((4, 6), torch.float32)
    out = torch.full((6, 4), float("nan")).t()
    assert F.sigmoid(x, out=out) is out
    torch.testing.assert_close(out, x.sigmoid())
    empty = torch.empty(0)
    assert F.tanh(x, out=empty).shape == x.shape
    with pytest.raises(RuntimeError, match="can't be cast"):
        F.sigmoid(x, out=torch.empty(4, 6, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        F.sigmoid(x.requires_grad_(), out=torch.empty(4, 6))


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    x = (rand((4, 5), torch.float64) + 0.01).requires_grad_()
    check_gradients(getattr(F, name), (x,))


@pytest.mark.parametrize("name", ("relu", "sigmoid"))
def test_in_place_gradients(name: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 1.5
        getattr(F, name + "_")(y)
        return y * y

    check_gradients(f, ((rand((4, 5), torch.float64) + 0.01).requires_grad_(),))


def test_in_place_protects_leaves_and_saved_tensors() -> None:
    leaf = rand((3,), torch.float32).requires_grad_()
    before = leaf.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        F.relu_(leaf)
    with pytest.raises(RuntimeError, match="view of a leaf"):
        F.relu_(leaf[:2])
    assert torch.equal(leaf, before)
    y = F.sigmoid(leaf)  # saved for backward
    F.relu_(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (y.sum() + F.sigmoid(leaf).sum()).backward() if y.grad_fn is None else torch.autograd.grad(y.sum(), leaf)


def test_relu_gradient_at_zero_and_nan() -> None:
    x = torch.tensor([0.0, -0.0, -1.0, 2.0, float("nan")], requires_grad=True)
    g = torch.full((5,), 3.0)
    (ours,) = torch.autograd.grad(F.relu(x), x, g)
    (theirs,) = torch.autograd.grad(torch.relu(x), x, g)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_registration(name: str) -> None:
    op = getattr(torch.ops.fastgrad, name)
    for x in (rand((3, 4), torch.float32), rand((4, 3), torch.float64).t().requires_grad_()):
        check_op(op.default, (x,))
    check_op(op.out, (rand((3, 4), torch.float32),), {"out": torch.empty(3, 4)})
    if name != "tanh":
        check_op(getattr(torch.ops.fastgrad, name + "_").default, (rand((3, 4), torch.float32),))
    backward = getattr(torch.ops.fastgrad, name + "_backward")
    y = getattr(torch, name)(rand((3, 4), torch.float64)).requires_grad_()
    check_op(backward.default, (torch.ones((), dtype=torch.float64).expand(3, 4), y))


@pytest.mark.parametrize("name", NAMES)
def test_compiles(name: str) -> None:
    function: Callable[..., Any] = getattr(F, name)
    check_compiles(lambda x: function(x) + 1, (rand((3, 4), torch.float32).requires_grad_(),))


def test_in_place_compiles() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        F.sigmoid_(y)
        return F.relu_(y - 0.5)

    check_compiles(f, (rand((3, 4), torch.float32).requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
def test_reproducible(name: str) -> None:
    x = rand((small(100_003, 10_003),), torch.float32)
    check_reproducible(lambda: getattr(F, name)(x))


def test_needs_input_grad_and_retain_graph() -> None:
    x = rand((5,), torch.float64).requires_grad_()
    y = F.sigmoid(x).sum()
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward()
    torch.testing.assert_close(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_forward_mode_is_refused() -> None:
    import torch.autograd.forward_ad as forward_ad

    with forward_ad.dual_level():
        x = forward_ad.make_dual(torch.randn(3), torch.randn(3))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            F.sigmoid(x)


def test_a_gradient_with_a_tangent_is_refused() -> None:
    import torch.autograd.forward_ad as forward_ad

    x = torch.randn(3, requires_grad=True)
    w = torch.randn(2, 3, requires_grad=True)
    for y, inputs in ((F.sigmoid(x), x), (F.linear(x, w), (x, w)), (F.linear(x.view(1, 3), w), w)):
        with forward_ad.dual_level():
            grad = forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y))
            with pytest.raises(NotImplementedError, match="forward-mode"):
                torch.autograd.grad(y, inputs, grad)


@pytest.mark.parametrize("bad", ([1.0], 1.0, None, "x"))
def test_non_tensors(bad: object) -> None:
    with pytest.raises(TypeError, match="argument 'input'"):
        F.sigmoid(bad)


def test_unsupported_dtype() -> None:
    with pytest.raises(NotImplementedError, match="ComplexFloat"):
        F.sigmoid(torch.zeros(2, dtype=torch.complex64))
