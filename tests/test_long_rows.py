"""Rows and runs longer than a block of the kernels (4096 elements), and than a row that is passed over whole (1 MiB).

References are of float64, or of torch where nothing is rounded.
"""

from __future__ import annotations

import math

import pytest
import torch
from checks import EPS, assert_accurate, rand, small

import fastgrad.functional as F

SIZES = small([4095, 4096, 4097, 8191, 65537, 262_145], [4097, 8191])
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_folds(n: int, dtype: torch.dtype) -> None:
    x = rand((3, n), dtype)
    for y, dim in ((x, 1), (x[:, 1:], 1), (x[0], None), (x[0, 1:], None)):
        over = (dim,) if dim else ()
        size = y.double().abs().sum(*over)  # a sum cancels: its error is relative to this
        for name in ("sum", "mean"):
            scale = size / (y.shape[-1] if name == "mean" else 1)
            theirs = getattr(torch, name)
            assert_accurate(getattr(F, name)(y, *over), theirs(y, *over), theirs(y.double(), *over), 2, scale, name)
        for name in ("amax", "amin"):
            assert torch.equal(getattr(F, name)(y, *over), getattr(torch, name)(y, *over))
        factors = (y[..., ::7] / 8).exp().to(dtype).contiguous()
        exact, count = torch.prod(factors.double(), *over), factors.shape[-1]
        if exact.abs().max() < torch.finfo(dtype).max and exact.abs().min() > torch.finfo(dtype).tiny:
            roundings = 4 + 2 * math.sqrt(count)  # a random walk of them
            assert_accurate(F.prod(factors, *over), torch.prod(factors, *over), exact, roundings, 0.0, "prod")


@pytest.mark.parametrize("n", SIZES)
def test_nan_and_infinities_anywhere_in_a_run(n: int) -> None:
    for at in {0, 17, n // 2, n - 17, n - 1}:
        for value in (math.nan, math.inf, -math.inf):
            x = rand((n,), torch.float32)
            x[at] = value
            for name in ("sum", "mean", "amax", "amin", "prod"):
                ours, theirs = getattr(F, name)(x), getattr(torch, name)(x)
                assert torch.equal(ours.isnan(), theirs.isnan()), (name, at, value)
                if name != "prod" and not theirs.isfinite():
                    assert torch.equal(ours.nan_to_num(0.5), theirs.nan_to_num(0.5)), (name, at, value)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax(n: int, dtype: torch.dtype) -> None:
    x, grad = rand((3, n), dtype, -9, 9), rand((3, n), dtype)
    for ours, theirs in ((F.softmax, torch.softmax), (F.log_softmax, torch.log_softmax)):
        a, b, exact = (t.clone().requires_grad_() for t in (x, x, x.double()))
        ours_out, theirs_out, exact_out = ours(a, 1), theirs(b, 1), theirs(exact, 1)
        assert_accurate(ours_out, theirs_out, exact_out, 4)
        for out in (ours_out, theirs_out, exact_out):
            out.backward(grad.to(out.dtype))
        # The gradient is a difference, of what may be larger.
        g = grad.double()
        if ours is F.softmax:
            scale = exact_out * g.abs().max()
        else:  # the output's own rounding is multiplied by the sum of the row's gradients
            scale = g.abs() + exact_out.exp() * (g.sum(1, True).abs() + math.sqrt(n))
        assert_accurate(a.grad, b.grad, exact.grad, 40, scale)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(n: int, dtype: torch.dtype, smoothing: float) -> None:
    """The gradient that forward leaves, and that of a backward pass of its own."""
    x, target = rand((5, n), dtype, -9, 9), torch.tensor([0, n - 1, n // 2, -100, 17])
    results = []
    for f, logits in ((F.cross_entropy, x), (torch.nn.functional.cross_entropy, x.double())):
        for reduction in ("mean", "none"):
            leaf = logits.clone().requires_grad_()
            loss = f(leaf, target, label_smoothing=smoothing, reduction=reduction)
            loss.backward(torch.full_like(loss, 0.25 if reduction == "none" else 1.0))
            results.append((loss.detach(), leaf.grad))
    (mean, grad_mean), (none, grad_none), (exact_mean, exact_grad), (exact_none, _) = results
    assert_accurate(mean, exact_mean.to(dtype), exact_mean, 4)
    assert_accurate(none, exact_none.to(dtype), exact_none, 4)
    assert torch.equal(grad_mean, grad_none)  # of 4 rows that count, a quarter each
    probability = x.double().softmax(1) / 4
    error = ((grad_mean.double() - exact_grad).abs() / (probability + exact_grad.abs())).nan_to_num(0)
    assert error.max() <= 20 * EPS[dtype]
