"""What the tests of the matrix products share: shapes, error budgets, references."""

from __future__ import annotations

from typing import Any

import torch
from checks import assert_accurate, rand

ACTIVATIONS = (None, "relu", "sigmoid", "tanh")

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


def leaf(shape: Any) -> torch.Tensor:
    return rand(shape, torch.float64).requires_grad_()
