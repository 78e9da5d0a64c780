"""Results of 8 MiB and more are written past the cache: the same bits, in place and only there, as of small ones.

Elements, or rows, are independent of one another: a large call must give what calls on its parts give.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from checks import EMULATED, rand

import fastgrad.functional as F

pytestmark = [pytest.mark.cpu, pytest.mark.skipif(EMULATED, reason="about the kernels of the CPU")]
BYTES = 8 << 20
PARTS = 3  # each below the bound, and with its own edges


def rows_for(columns: int, dtype: torch.dtype) -> int:
    return BYTES // (columns * dtype.itemsize) + 2


def check_parts(f: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
    """f is computed whole, by any number of threads, and by parts of dimension 0."""
    threads = torch.get_num_threads()
    try:
        whole = f(*inputs)
        assert whole.nbytes >= BYTES
        step = len(inputs[0]) // PARTS + 1
        parts = [f(*(x[i : i + step] for x in inputs)) for i in range(0, len(inputs[0]), step)]
        assert all(part.nbytes < BYTES for part in parts)
        assert torch.equal(whole, torch.cat(parts))
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(f(*inputs), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_elementwise(dtype: torch.dtype) -> None:
    n = BYTES // dtype.itemsize + 4099
    x, y = rand((n,), dtype), rand((n,), dtype)
    check_parts(F.add, x, y)
    check_parts(F.mul, x[1:], y[:-1])
    if dtype.is_floating_point:
        check_parts(F.sigmoid, x)


def test_bools() -> None:
    n = BYTES + 333
    x, y = rand((n,), torch.uint8, 0, 3), rand((n,), torch.uint8, 0, 3)
    assert torch.equal(F.eq(x, y), torch.eq(x, y))


@pytest.mark.parametrize("columns", [3, 127, 129, 1000, 4099])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_broadcast(columns: int, dtype: torch.dtype) -> None:
    x = rand((rows_for(columns, dtype), columns), dtype)
    row, column = rand((columns,), dtype), rand((len(x), 1), dtype)
    check_parts(lambda x: F.mul(x, row), x)
    check_parts(F.sub, x, column)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_transposed_and_strided(dtype: torch.dtype) -> None:
    n = 1500 if dtype.itemsize == 4 else 2100
    x, y = rand((n, n + 7), dtype), rand((n + 7, n), dtype)
    assert torch.equal(F.add(x, y.T), torch.add(x, y.T))
    strided = rand((n, 2 * n), dtype)[:, 1::2]
    assert torch.equal(F.neg(strided), torch.neg(strided))


@pytest.mark.parametrize("offset", [0, 1, 15, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_else_is_written(offset: int, dtype: torch.dtype) -> None:
    """Out= of any alignment, contiguous and in rows with gaps."""
    n, gap = 1001, 5
    rows = rows_for(n, dtype)
    x, y = rand((rows, n), dtype), rand((rows, n), dtype)
    expected = torch.add(x, y)
    memory = torch.full((64 + rows * (n + gap),), 77, dtype=dtype)
    out = memory[offset : offset + rows * n].view(rows, n)
    F.add(x, y, out=out)
    assert torch.equal(out, expected)
    assert (memory[:offset] == 77).all() and (memory[offset + rows * n :] == 77).all()
    memory.fill_(77)
    gapped = memory[offset : offset + rows * (n + gap)].view(rows, n + gap)
    F.add(x, y, out=gapped[:, :n])
    assert torch.equal(gapped[:, :n], expected) and (gapped[:, n:] == 77).all()


def test_in_place() -> None:
    x, y = rand((BYTES // 4 + 11,), torch.float32), rand((BYTES // 4 + 11,), torch.float32)
    expected = torch.add(x, y)
    F.add(x, y, out=x)
    assert torch.equal(x, expected)


@pytest.mark.parametrize(
    ("columns", "dtype"),
    [
        *((n, dtype) for n in (10, 63, 64, 65, 200, 1000, 1024, 33001) for dtype in (torch.float32, torch.bfloat16)),
        (10, torch.float64),
        (129, torch.float64),
        (1000, torch.float16),
    ],
    ids=str,
)
def test_rows(columns: int, dtype: torch.dtype) -> None:
    x = rand((rows_for(columns, dtype), columns), dtype)
    grad = rand(x.shape, dtype)
    target = torch.randint(columns, (len(x),))
    for softmax in (F.softmax, F.log_softmax):
        check_parts(lambda x, s=softmax: s(x, 1), x)
        check_parts(lambda x, g, s=softmax: gradient(s(x.requires_grad_(), 1), x, g), x, grad)
    each = rand((len(x),), dtype)
    for loss in (F.cross_entropy, F.nll_loss):
        check_parts(lambda x, t, g, f=loss: gradient(f(x.requires_grad_(), t, reduction="none"), x, g), x, target, each)


def gradient(y: torch.Tensor, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(y, x, grad)[0]


@pytest.mark.parametrize("columns", [130, 257, 2051])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dimension_0(columns: int, dtype: torch.dtype) -> None:
    """Adjacent rows side by side; the parts are columns."""
    x = rand((rows_for(columns, dtype), columns), dtype)
    check_parts(lambda x: F.softmax(x.T, 0).T, x)
    check_parts(lambda t: F.softmax(t.T.contiguous(), 0).T.contiguous(), x)
