"""Powers: how exact, special values, integers, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks import check_op, rand

import fastgrad
import fastgrad.functional as F


@pytest.mark.cpu
@pytest.mark.skipif(fastgrad.active_backend() == "emulated", reason="powf of the C library or of CUDA is less exact")
def test_float32_powers_are_half_an_ulp_from_the_truth() -> None:
    bits = torch.randint(1, 0x7F800000, (1 << 18,), dtype=torch.int32)  # subnormal numbers too
    x = torch.cat([bits.view(torch.float32), 1 + torch.randn(1 << 16) * 1e-3])
    with np.errstate(all="ignore"):
        y = torch.randn(x.shape) * 90 / x.log().abs().clamp(1e-6)
        exact = np.power(x.double().numpy(), y.double().numpy())
        below = np.abs(exact.astype(np.float32))
        ulp = np.spacing(below).astype(np.float64)
    inside = np.isfinite(below) & (below > 0)
    error = np.abs(F.pow(x, y).double().numpy() - exact)[inside] / ulp[inside]
    assert inside.sum() > 100_000 and error.max() < 0.51


def test_special_powers() -> None:
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -3.0, 2.5, float("inf"), float("-inf"), float("nan"), 1e-42, 3e38]
    for dtype in (torch.float32, torch.float64):
        v = torch.tensor(values, dtype=dtype)
        pairs = torch.cartesian_prod(v, v)
        x, y = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
        ours, theirs = F.pow(x, y), torch.pow(x, y)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        assert torch.equal(torch.signbit(ours[~ours.isnan()]), torch.signbit(theirs[~ours.isnan()]))


@pytest.mark.parametrize("dtype", (torch.int64, torch.int32, torch.uint8))
def test_integer_powers(dtype: torch.dtype) -> None:
    base, exponent = rand((17, 1), dtype, -4, 4), rand((9,), dtype, 0, 6)
    ours, theirs = F.pow(base, exponent), torch.pow(base, exponent)
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    with pytest.raises(RuntimeError, match="negative integer powers"):
        F.pow(rand((3,), torch.int64), -1)


@pytest.mark.parametrize("exponent", (0, 1, 2, 3, -1, 0.5, 2.5, torch.tensor(2.0), torch.tensor(0.0)), ids=str)
def test_gradients_of_a_power_with_one_exponent(exponent: Any) -> None:
    x = rand((41,), torch.float64, 0.1, 3).requires_grad_()

    def derivatives(f: Any) -> tuple[torch.Tensor, torch.Tensor]:
        (first,) = torch.autograd.grad(f(x, exponent).sum(), x, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), x, allow_unused=True)[0] if first.requires_grad else None
        return first.detach(), torch.zeros_like(x) if second is None else second

    theirs = derivatives(torch.pow)
    torch.testing.assert_close(derivatives(F.pow), theirs)
    compiled = torch.compile(F.pow, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x, exponent).sum(), x)[0], theirs[0])


def test_pow_gradients_at_zero() -> None:
    x = torch.tensor([0.0, 0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    e = torch.tensor([0.0, 1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(F.pow(x, e).sum(), (x, e))
    theirs = torch.autograd.grad(torch.pow(x, e).sum(), (x, e))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
def test_pow_gradients_against_float64(dtype: torch.dtype) -> None:
    # The exponent less one, the power, the logarithm and two products each round once; the first is magnified by
    # b log a < 3.
    tolerance = 8 * torch.finfo(dtype).eps
    for shapes in (((7, 129), (7, 129)), ((7, 129), (129,)), ((5, 1, 33), (17, 1)), ((131,), ()), ((), (131,))):
        for exponent in (None, 2, 3, 0.5, -1, -2.5):
            a, b = (rand(shape, dtype, 0.5, 2.5) for shape in shapes)
            if exponent is not None:
                b = torch.tensor(exponent, dtype=dtype)
            shape = torch.broadcast_shapes(a.shape, b.shape)
            g = rand(shape, dtype, 0.5, 1)
            ours = [t.clone().requires_grad_() for t in (a, b)]
            theirs = [t.double().requires_grad_() for t in (a, b)]
            for x, y in zip(
                torch.autograd.grad(F.pow(*ours), ours, g),
                torch.autograd.grad(torch.pow(*theirs), theirs, g.double()),
                strict=True,
            ):
                if x.shape == shape:  # a sum over what was expanded is test_reductions' business
                    torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance)


def test_pow_backward_registration() -> None:
    x, y = rand((3, 4), torch.float32, 1, 2), rand((4,), torch.float32, 1, 2)
    ops = torch.ops.fastgrad
    for needs in (False, True):
        g, a, b = (t.clone().requires_grad_(needs) for t in (x, x + 1, y))
        check_op(ops.pow_base_backward.default, (g, a, b))
        check_op(ops.pow_exponent_backward.default, (g, a, b, x))
