"""Reductions against torch in float64, in every layout; ties, NaN, empty tensors, errors, gradients, threads."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
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
    rand,
    small,
    wide,
)

import fastgrad.functional as F

SHAPES = [(7,), (1,), (64,), (5, 3), (17, 64), (33, 130), (9, 4, 65), (3, 1, 5, 7), (9, 130, 33)]
SHAPES += [small((1100, 129), (143, 129)), small((1031, 17), (133, 17))]
FLOAT_OPS = ["sum", "mean", "prod", "var", "std", "amax", "amin", "logsumexp"]
OPS = torch.ops.fastgrad


def dims_of(ndim: int) -> list[Any]:
    dims: list[Any] = [*range(-ndim, 0)]
    if ndim > 1:
        dims += [(0, ndim - 1), tuple(range(ndim))]
    return dims


def reference(name: str, x: torch.Tensor, dim: Any = None) -> torch.Tensor:
    """The result for `x` in a higher precision than its dtype, rounded to float64."""
    if x.dtype != torch.float64 or name in ("amax", "amin"):
        double = x.double()
        return getattr(torch, name)(double) if dim is None else getattr(torch, name)(double, dim)
    values = wide(x)
    if name == "logsumexp":
        top = values.max(axis=dim, keepdims=True)
        return narrow(np.log(np.exp(values - top).sum(axis=dim)) + np.squeeze(top, axis=dim))
    return narrow(getattr(np, name)(values, axis=dim, **({"ddof": 1} if name in ("var", "std") else {})))


def magnitude(name: str, x: torch.Tensor, dim: Any) -> torch.Tensor | float:
    """What errors are relative to: sums cancel; below the normal numbers all are as far apart as the least of those."""
    if name in ("sum", "mean"):
        return getattr(torch, name)(x.double().abs(), dim)
    if name == "prod":
        return torch.finfo(x.dtype).tiny
    return 1.0 if name == "logsumexp" else 0.0


def ulps_of_product(x: torch.Tensor) -> float:
    """n - 1 roundings, whose errors spread like a random walk; those of equal factors are equal, and add up."""
    stored = math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride != 0)
    return 4 + 2 * math.sqrt(x.numel() * (x.numel() / max(1, stored)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FLOAT_OPS)
def test_accuracy(name: str, dtype: torch.dtype) -> None:
    ours, theirs = getattr(F, name), getattr(torch, name)
    for shape in SHAPES:
        for layout, x in layouts(rand(shape, dtype, 0.8, 1.2) if name == "prod" else rand(shape, dtype)):
            for dim in dims_of(x.dim()):
                if name == "prod" and isinstance(dim, tuple):
                    continue
                if name in ("var", "std") and theirs(x.double(), dim, correction=0).numel() == x.numel():
                    continue
                ulps = {"prod": ulps_of_product(x), "var": 6, "std": 4, "logsumexp": 3}.get(name, 2)
                scale = magnitude(name, x, dim)
                if name in ("var", "std"):  # an expanded dimension has no variance
                    scale = 1e-3
                assert_accurate(
                    ours(x, dim), theirs(x, dim), reference(name, x, dim), ulps, scale, (shape, layout, dim)
                )
            if name != "logsumexp" and x.numel() > 1:
                scale = 1e-3 if name in ("var", "std") else magnitude(name, x, tuple(range(x.dim())))
                ulps = ulps_of_product(x) if name == "prod" else 6
                assert_accurate(ours(x), theirs(x), reference(name, x), ulps, scale, layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_var_of_shifted_data(dtype: torch.dtype) -> None:
    """A mean far above the deviation must not drown it."""
    x = (torch.randn(100_003, dtype=torch.float64) + 1e3).to(dtype)
    assert_accurate(F.var(x), torch.var(x), reference("var", x), 64)
    x = x[:100_000].view(1000, 100)
    assert_accurate(F.var(x, 0), torch.var(x, 0), reference("var", x, 0), 64)
    # Blocks are summed about the mean of their first elements, which may be far from that of the others.
    x, first = torch.randn(100, 1000, dtype=torch.float64), torch.arange(1000) < 16
    for rows in (x.view(-1).sort().values.view(100, 1000), *(x.where(~first, v * (2 + x)) for v in (9, 1e4, 5e17))):
        for y in (rows.to(dtype), rows.to(dtype).view(1, -1)):
            assert_accurate(F.var(y, 1), torch.var(y, 1), reference("var", y, 1), 6)
    y = (x + 1e3).to(dtype)  # torch is off by up to 1000 units, which allow us nothing
    assert_accurate(F.var(y, 1), reference("var", y, 1).to(dtype), reference("var", y, 1), 6)
    assert F.var(torch.zeros(4096).index_fill(0, torch.arange(16), 1e37)).item() == math.inf


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, torch.int8, torch.int16, torch.bool], ids=str)
def test_extremes_are_torchs(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for layout, x in layouts(rand(shape, dtype)):  # few distinct values: ties abound
            if dtype.is_floating_point and x.numel() > 20:
                x = x.round()
            for dim in range(-x.dim(), x.dim()):
                for name in ("max", "min"):
                    for ours, theirs in zip(getattr(F, name)(x, dim), getattr(torch, name)(x, dim), strict=True):
                        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), (shape, layout, dim)
                    assert torch.equal(getattr(F, f"a{name}")(x, dim), getattr(torch, f"a{name}")(x, dim))
                    index = getattr(F, f"arg{name}")(x, dim, True)
                    # torch's arg reductions do not take bool
                    reference = getattr(torch, f"arg{name}")(x.int() if dtype == torch.bool else x, dim, True)
                    assert torch.equal(index, reference), (shape, layout, dim)
            for name in ("max", "min"):
                assert torch.equal(getattr(F, name)(x), getattr(torch, name)(x))
                flat = x.int() if dtype == torch.bool else x
                assert torch.equal(getattr(F, f"arg{name}")(x), getattr(torch, f"arg{name}")(flat)), (shape, layout)


def test_nan_is_kept_and_found_first() -> None:
    for shape, dim in (((1000,), 0), ((40, 100), 0), ((40, 100), 1), ((300, 3), 0), ((3, 300), 0)):
        x = torch.randn(shape)
        x.view(-1)[torch.randperm(x.numel())[: x.numel() // 50]] = float("nan")
        x.view(-1)[0] = float("inf")
        for name in ("max", "min"):
            ours, theirs = getattr(F, name)(x, dim), getattr(torch, name)(x, dim)
            assert torch.equal(ours.indices, theirs.indices)
            assert torch.equal(ours.values.nan_to_num(0.5), theirs.values.nan_to_num(0.5))
            assert getattr(F, name)(x).isnan()
        assert F.sum(x).isnan() and F.logsumexp(x, 0).isnan().equal(torch.logsumexp(x, 0).isnan())
    for value in (float("inf"), float("-inf")):
        x = torch.full((5, 70), value)
        for dim in (0, 1):
            assert torch.equal(F.logsumexp(x, dim), torch.logsumexp(x, dim))
            assert torch.equal(F.argmax(x, dim), torch.zeros_like(x.sum(dim), dtype=torch.int64))
            assert F.var(x, dim).isnan().all()
    assert F.logsumexp(torch.tensor([-1e30, float("-inf"), 1e30]), 0) == 1e30
    assert abs(F.logsumexp(torch.full((10_000,), -1000.0), 0).item() - (-1000 + 9.210340371976184)) < 1e-4


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.int8, torch.int16, torch.bool], ids=str)
def test_integer_sums(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for layout, x in layouts(rand(shape, dtype, -100, 100)):
            for dim in range(x.dim()):
                for name in ("sum", "prod"):
                    ours, theirs = getattr(F, name)(x, dim), getattr(torch, name)(x, dim)
                    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), (name, shape, layout, dim)
            assert torch.equal(F.sum(x), x.sum()) and torch.equal(F.prod(x), x.prod())
    x = torch.full((300_000,), torch.iinfo(torch.int32).max, dtype=torch.int32)
    assert F.sum(x).item() == 300_000 * (2**31 - 1)


def test_more_than_two_to_the_31_elements() -> None:
    n = small(2**31 + 5, 2**17 + 5)
    for x in (torch.ones(1, dtype=torch.int8), torch.ones(1, dtype=torch.bool)):
        assert F.sum(x.expand(n)).item() == n
    if n > 2**31:
        assert F.argmax(torch.zeros(1, dtype=torch.int8).expand(n)).item() == 0


def test_dtype_argument() -> None:
    x = rand((7, 40), torch.float32)
    for dtype in (torch.float64, torch.int64, torch.int32, torch.bool):
        for name in ("sum", "prod"):
            ours, theirs = getattr(F, name)(x, 1, dtype=dtype), getattr(torch, name)(x, 1, dtype=dtype)
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-12)
    assert F.mean(torch.arange(6), dtype=torch.float64) == 2.5
    assert F.logsumexp(torch.arange(3), 0).dtype == torch.float32


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "amax", "max", "argmax", "var", "std"])
def test_empty_and_scalar_as_torch(name: str) -> None:
    arguments = [(), (0,), (-1,), (1,), (5,)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in (torch.empty(0), torch.empty(3, 0), torch.empty(0, 3), torch.tensor(2.0), torch.ones(2, 1)):
            for args in arguments:
                try:
                    expected = getattr(torch, name)(x, *args)
                except (RuntimeError, IndexError) as error:
                    with pytest.raises(type(error)) as caught:
                        getattr(F, name)(x, *args)
                    # amax alone names the dimension as it was given
                    messages = [re.sub("reduction dim -?[0-9]", "reduction dim", str(e)) for e in (caught.value, error)]
                    assert messages[0].split("\n")[0] == messages[1].split("\n")[0]
                    continue
                ours = getattr(F, name)(x, *args)
                torch.testing.assert_close(tuple(ours), tuple(expected), equal_nan=True) if isinstance(
                    expected, tuple
                ) else torch.testing.assert_close(ours, expected, equal_nan=True)
                keep = (*args, *([None] if not args and name not in ("amax",) else [()] if not args else []), True)
                if name not in ("max", "var", "std", "prod") or args:
                    if name in ("var", "std"):
                        assert getattr(F, name)(x, args[0], keepdim=True).dim() == x.dim()
                    elif name != "max":
                        assert getattr(F, name)(x, *keep).dim() == x.dim()


def test_errors_as_torch() -> None:
    x = torch.ones(2, 3)
    cases: list[tuple[str, Callable[[Any], Any]]] = [
        ("duplicate", lambda f: f.sum(x, (0, 0))),
        ("duplicate", lambda f: f.amax(x, (0, -2))),
        ("range", lambda f: f.var(x, (0, 2))),
        ("range", lambda f: f.max(x, 2)),
        ("integers", lambda f: f.mean(x.int())),
        ("integers", lambda f: f.mean(x, dtype=torch.int64)),
        ("integers", lambda f: f.std(x.int())),
        ("type", lambda f: f.sum("a")),
        ("type", lambda f: f.prod(x, (0, 1))),
        ("out", lambda f: f.argmax(x, 0, out=torch.empty(3))),
    ]
    for what, call in cases:
        with pytest.raises(Exception) as expected:
            call(torch)
        with pytest.raises(expected.type):
            call(F)
        assert what
    with pytest.raises(TypeError, match="'dim'"):  # torch's from 2.13 on; before, it takes None for a dimension's name
        F.logsumexp(x, None)


def test_var_degrees_of_freedom() -> None:
    x = torch.randn(4, 3)
    for correction in (0, 1, 2.5, 4, 7):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours = F.var(x, 0, correction=correction)
        assert bool([w for w in caught if "degrees of freedom" in str(w.message)]) == (correction >= 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(ours, torch.var(x, 0, correction=correction), equal_nan=True)
    torch.testing.assert_close(F.std(x, 1, False, True), torch.std(x, 1, False, True))
    torch.testing.assert_close(F.var(x, False), torch.var(x, False))
    with pytest.raises(TypeError):
        F.var(x, 0, True, correction=1)


def test_out() -> None:
    x = torch.randn(5, 6)
    for name in ("sum", "mean", "prod", "amax", "amin", "var", "std", "logsumexp"):
        out = torch.empty(12)[::2]
        assert getattr(F, name)(x, 0, out=out) is out
        torch.testing.assert_close(out, getattr(torch, name)(x, 0))
    values, indices = torch.empty(0), torch.empty(0, dtype=torch.int64)
    result = F.max(x, 1, out=(values, indices))
    assert result.values is values and torch.equal(values, x.max(1).values) and torch.equal(indices, x.argmax(1))
    y = torch.randn(5, 6)
    assert torch.equal(F.max(x, y), torch.max(x, y)) and torch.equal(F.min(x, other=y), torch.min(x, y))


GRADIENT_CASES: list[tuple[str, Callable[[torch.Tensor], Any]]] = [
    ("sum", lambda x: F.sum(x, (0, 2))),
    ("sum_all", lambda x: F.sum(x, None, True)),
    ("mean", lambda x: F.mean(x, 1, keepdim=True)),
    ("prod", lambda x: F.prod(x, 1)),
    ("prod_all", lambda x: F.prod(x).view(1)),
    ("var", lambda x: F.var(x, (0, 1))),
    ("var_keepdim", lambda x: F.var(x, 2, keepdim=True, correction=0)),
    ("std", lambda x: F.std(x, keepdim=True)),
    ("max", lambda x: F.max(x)),
    ("amax", lambda x: F.amax(x, (0, 2))),
    ("amin", lambda x: F.amin(x, -1, True)),
    ("max_dim", lambda x: F.max(x, 1).values),
    ("min_dim", lambda x: F.min(x, -1, keepdim=True).values),
    ("logsumexp", lambda x: F.logsumexp(x, (0, 2))),
    ("maximum", lambda x: F.maximum(x, 0.3 - x)),
]


@pytest.mark.parametrize("f", [f for _, f in GRADIENT_CASES], ids=[name for name, _ in GRADIENT_CASES])
def test_gradients(f: Callable[[torch.Tensor], Any], request: pytest.FixtureRequest) -> None:
    # Distinct values: gradcheck moves them, and an extreme must not change.
    x = (torch.randperm(24).double() / 8 - 1.4).view(2, 3, 4)
    expanded_ties = any(word in request.node.name for word in ("max", "min"))
    if expanded_ties:
        x = x.clone().requires_grad_()
        assert torch.autograd.gradcheck(f, (x,)) and torch.autograd.gradgradcheck(f, (x,))
        assert torch.autograd.gradcheck(f, (x.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_(),))
    else:
        check_gradients(f, (x.requires_grad_(),))


@pytest.mark.parametrize("name", ["max", "amax", "min", "amin"])
def test_ties_share_the_gradient(name: str) -> None:
    for values in ([1.0, 3.0, 3.0, 1.0, 1.0], [float("nan"), 1.0, float("nan")], [float("inf")] * 3):
        grads = []
        for f in (getattr(F, name), getattr(torch, name)):
            x = torch.tensor(values, requires_grad=True)
            f(x).backward()
            grads.append(x.grad)
        torch.testing.assert_close(*grads, equal_nan=True)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_gradients_of_elementwise_extremes(name: str) -> None:
    special = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0]
    pairs = torch.cartesian_prod(torch.tensor(special), torch.tensor(special)).t()
    drawn = torch.randint(-2, 3, (2, 7, 1, 129)).float()
    for a, b in (pairs, drawn, (drawn[0], drawn[1, :, 0, :1]), (drawn[0].double(), drawn[1]), drawn.bfloat16()):
        grads = []
        g = torch.randn(torch.broadcast_shapes(a.shape, b.shape)).to(torch.promote_types(a.dtype, b.dtype))
        for f in (getattr(F, name), getattr(torch, name)):
            x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
            grads.append(torch.autograd.grad(f(x, y), (x, y), g))
        tolerance = {"rtol": 0, "atol": 0} if a.shape == b.shape else {}
        torch.testing.assert_close(*grads, **tolerance)


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_prod_gradient_with_zeros(zeros: int) -> None:
    x = torch.randn(3, 5, dtype=torch.float64)
    x[1, :zeros] = 0
    x.requires_grad_()
    for f, g in ((lambda t: F.prod(t, 1), lambda t: torch.prod(t, 1)), (F.prod, torch.prod)):
        ours = torch.autograd.grad(f(x).sum(), x)[0]
        torch.testing.assert_close(ours, torch.autograd.grad(g(x).sum(), x)[0])
        assert torch.autograd.gradcheck(f, (x,)) and torch.autograd.gradgradcheck(f, (x,))


def test_std_gradient_of_constant_is_zero() -> None:
    x = torch.ones(5, requires_grad=True)
    F.std(x).backward()
    assert torch.equal(x.grad, torch.zeros(5))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_low_precision_gradients(dtype: torch.dtype) -> None:
    x = rand((6, 50), dtype)
    for name in ("sum", "mean", "var", "std", "logsumexp", "amax"):
        grads = []
        for f, t in ((getattr(F, name), x), (getattr(torch, name), x), (getattr(torch, name), x.double())):
            t = t.detach().clone().requires_grad_()
            grads.append(torch.autograd.grad(f(t, 1).sum(), t)[0])
        scale = grads[2].abs().max()
        assert_accurate(*grads, 8, scale, name)


def test_reproducible() -> None:
    x = torch.randn(small(1_500_007, 100_007))
    y = torch.randn(small((700, 1501), (70, 501)))
    for name in ("sum", "var", "prod", "max"):
        check_reproducible(lambda name=name: getattr(F, name)(x))
    for dim in (0, 1):
        check_reproducible(lambda dim=dim: (F.sum(y, dim), F.var(y, dim), F.logsumexp(y, dim), *F.max(y, dim)))


def test_opcheck() -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    for name in ("sum", "mean", "amax", "amin", "logsumexp"):
        check_op(getattr(OPS, name).default, (x, [0, 2], True))
        check_op(getattr(OPS, name).default, (x, [1]))
    check_op(OPS.prod.default, (x, 1))
    check_op(OPS.prod.default, (x,))
    for name in ("max", "min"):
        check_op(getattr(OPS, name).default, (x,))
        check_op(getattr(OPS, f"{name}_dim").default, (x, 1, True))
        check_op(getattr(OPS, f"arg{name}").default, (x, 1))
    for name in ("var_mean", "std_mean"):
        check_op(getattr(OPS, name).default, (x, [0, 1]), {"correction": 0})
        check_op(getattr(OPS, name).default, (x,))
    small_x = torch.randn(3, 1, 5, requires_grad=True)
    check_op(OPS.var_backward.default, (small_x, x, small_x, 0.5))
    check_op(OPS.logsumexp_backward.default, (small_x, x, small_x))
    check_op(OPS.max_backward.default, (small_x, x.detach(), x.detach().amax(1, True), [1], True))
    check_op(OPS.max_dim_backward.default, (small_x, x.detach().argmax(1, True), 1, 4))
    check_op(OPS.maximum.default, (x, small_x))
    check_op(OPS.sum_product.default, (x, x.detach().flip(0), [0, -1]))
    check_op(OPS.maximum_backward.default, (x, x.detach(), small_x.detach()))
    check_op(OPS.sum.out, (x.detach(), [1]), {"out": torch.empty(3, 5)})


def test_compile() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    check_compiles(lambda t: (F.sum(t, 1), F.mean(t), F.var(t, 0), F.std(t, dim=(0, 1)), F.logsumexp(t, 1)), (x,))
    check_compiles(lambda t: (F.amax(t, 1), F.max(t), F.max(t, 0).values, F.prod(t, 1), F.maximum(t, t * t)), (x,))
    check_compiles(lambda t: (F.argmax(t, 1), F.min(t, 0).indices), (x.detach(),))


@pytest.mark.cpu
def test_autocast() -> None:
    x = torch.randn(4, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name in ("sum", "mean", "var", "amax"):
            assert getattr(F, name)(x, 1).dtype == getattr(torch, name)(x, 1).dtype
        assert F.logsumexp(x, 1).dtype == torch.logsumexp(x, 1).dtype
