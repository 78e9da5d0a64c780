"""Operands of different shapes and layouts in one elementwise call, against torch to the bit."""

from __future__ import annotations

import pytest
import torch
from checks import rand, same, small
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgrad.functional as F


@settings(deadline=None, max_examples=small(60, 10))
@given(
    st.lists(st.integers(0, 4), min_size=0, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.integers(0, 5),
    st.permutations(range(5)),
)
def test_broadcasting(shape: list[int], ones_a: list[bool], ones_b: list[bool], drop: int, order: list[int]) -> None:
    """Any two broadcastable, permuted shapes give torch's values and strides."""
    a = rand([1 if one else n for n, one in zip(shape, ones_a, strict=False)], torch.float32)
    b = rand([1 if one else n for n, one in zip(shape, ones_b, strict=False)][min(drop, len(shape)) :], torch.float32)
    order = [d for d in order if d < a.dim()]
    a = a.permute(order).contiguous().permute([order.index(d) for d in range(a.dim())])
    same(F.mul(a, b), torch.mul(a, b), (a.shape, b.shape))
    same(F.ge(b, a), torch.ge(b, a), (a.shape, b.shape))


@pytest.mark.parametrize("columns", [1, 2, 7, 10, 64, 100, 255, 256, 300, 2049])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int8], ids=str)
def test_what_many_rows_share(columns: int, dtype: torch.dtype) -> None:
    """A row, a column and a number against rows short and long, contiguous and not, whole and in place."""
    rows = small(min(1501, 100_000 // columns), 17)
    x, wider = rand((rows, columns), dtype), rand((rows, 2 * columns), dtype)[:, ::2]
    shared = [rand(shape, d) for shape in ((columns,), (rows, 1), ()) for d in (dtype, torch.int16)]
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for y in shared:
                for a in (x, wider, x[:, : columns - 1], x[1:]):
                    b = y[: a.shape[1]] if y.dim() == 1 else y[-len(a) :] if y.dim() == 2 else y
                    same(F.mul(a, b), torch.mul(a, b), (a.shape, b.shape, b.dtype))
                    same(F.sub(b, a), torch.sub(b, a), (a.shape, b.shape, b.dtype))
            row, column, number = shared[::2]
            for y in (row, column, number, wider[:, -1:]):
                out = x.clone()
                F.mul(out, y, out=out)
                same(out, torch.mul(x, y))
            same(F.mul(column, row), torch.mul(column, row))
            same(F.sub(column.t(), x.t()), torch.sub(column.t(), x.t()))
            same(F.mul(x.t(), 3), torch.mul(x.t(), 3))
            planes = rand((5, 3, columns), dtype)
            same(F.mul(planes, shared[0]), torch.mul(planes, shared[0]))
            same(F.mul(planes, planes[:, :1]), torch.mul(planes, planes[:, :1]))
    finally:
        torch.set_num_threads(threads)
