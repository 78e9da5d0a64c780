"""Random arguments of the calls that cases measure."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch

from fastgrad.bench.case import Arguments, Shape

__all__ = ["broadcast_columns", "broadcast_rows", "count", "one", "rand", "strided", "transposed", "two", "with_out"]


def rand(shape: Iterable[int], dtype: torch.dtype, low: float = -3.0, high: float = 3.0) -> torch.Tensor:
    """Fresh random values, uniform in [low, high]."""
    shape = tuple(shape)
    if not dtype.is_floating_point:
        return torch.randint(int(max(low, 0)), int(high) + 1, shape).to(dtype)
    exact = dtype if dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=exact).uniform_(low, high).to(dtype)


def count(shape: Shape) -> int:
    return prod(shape)


def one(low: float = -3.0, high: float = 3.0) -> Arguments:
    return lambda shape, dtype: (rand(shape, dtype, low, high),)


def two(low: float = -3.0, high: float = 3.0) -> Arguments:
    """Of one shape; the second is in [low, high]."""
    return lambda shape, dtype: (rand(shape, dtype, abs(low) if low > 0 else -3.0), rand(shape, dtype, low, high))


def strided(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor]:
    """Every second column of a wider tensor."""
    return (rand((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2],)


def transposed(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The second is the transpose of a contiguous tensor."""
    return rand(shape, dtype), rand(reversed(shape), dtype).permute(*range(len(shape) - 1, -1, -1))


def broadcast_rows(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The second is one row, for every row."""
    return rand(shape, dtype), rand(shape[-1:], dtype)


def broadcast_columns(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The second is one column, for every column."""
    return rand(shape, dtype), rand((*shape[:-1], 1), dtype)


def with_out(args: Arguments) -> Arguments:
    """The same, and a tensor for the result."""

    def make(shape: Shape, dtype: torch.dtype) -> tuple[Any, ...]:
        return *args(shape, dtype), torch.zeros(shape, dtype=dtype)

    return make
