"""What this machine can do at best: bytes read and copied, and multiply-adds, a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.utils.benchmark import Timer

from fastgrad import _C
from fastgrad.bench.case import Case

__all__ = ["measure", "step"]

_BYTES = 64 << 20
_MULTIPLY_ADDS = 2e8  # a few milliseconds
_FEWEST = 1e5
_ARITHMETIC = (torch.float32, torch.float64, torch.bfloat16)


def step(case: Case, traffic: dict[str, float], device: str) -> tuple[Callable[[], Any], float] | None:
    """A function that does the least any implementation must, and how many times over; None where too little is known.

    That is a copy of as many bytes as the case writes, past the cache where the ops write so, into a tensor allocated
    as the ops' outputs are, unless the case writes into an existing one, and a read of what else it reads; for a case
    bound by arithmetic, multiply-adds in registers.
    """
    if case.compute_bound:
        return _multiply_adds(case.dtype, traffic["flops"] / 2, device)
    written, read = int(traffic["written"]), int(traffic["read"])
    if written + read < 1 << 16:
        return None  # the time of a call, and not of memory
    # Their dtypes do not matter to a copy, and a sum must not take longer than the reading.
    source = torch.zeros(min(written, read), dtype=torch.uint8, device=device)
    extra = torch.zeros(max(0, read - written) // 4, dtype=torch.float32, device=device)
    existing = torch.zeros_like(source) if case.out else None
    new = _C.empty_output if device == "cpu" else lambda n: torch.empty(n, dtype=torch.uint8, device=device)
    copy = _C.copy_bytes if device == "cpu" else torch.Tensor.copy_

    def run() -> Any:
        result = None
        if len(source):
            result = new(len(source)) if existing is None else existing
            copy(result, source)
        return result, extra.sum() if len(extra) > 1024 else None

    return run, 1.0


def _multiply_adds(dtype: torch.dtype, count: float, device: str) -> tuple[Callable[[], Any], float] | None:
    if count < _FEWEST:
        return None  # the time of a call
    if device != "cpu" or not dtype.is_floating_point or not _C.multiply_adds(torch.float32, 1):
        return None
    arithmetic = _faster(torch.get_num_threads()) if dtype in (torch.bfloat16, torch.float16) else dtype
    done = _C.multiply_adds(arithmetic, min(count, _MULTIPLY_ADDS))
    return (lambda: _C.multiply_adds(arithmetic, min(count, _MULTIPLY_ADDS))), count / done


@lru_cache
def _faster(threads: int) -> torch.dtype:
    """For 16-bit floats: dot products of bfloat16, or widening to float32, whichever this CPU does faster."""
    return max((torch.bfloat16, torch.float32), key=lambda dtype: _rate(dtype, threads))


def _rate(dtype: torch.dtype, threads: int) -> float:
    done = _C.multiply_adds(dtype, _MULTIPLY_ADDS)
    return done / _median("f(dtype, count)", {"f": _C.multiply_adds, "dtype": dtype, "count": done}, threads)


def _median(statement: str, scope: dict[str, Any], threads: int) -> float:
    timer = Timer(statement, globals=scope, num_threads=threads)
    return sorted(timer.timeit(1).times[0] for _ in range(9))[4]


def measure(threads: int) -> dict[str, float]:
    """Bytes and arithmetic operations a second, of 64 MiB and of each arithmetic."""
    source, existing = torch.rand(_BYTES // 4), torch.rand(_BYTES // 4)
    limits = {}
    for name, statement, moved in (
        ("copy by torch into a new tensor, B/s", "y = source.clone()", 2),
        ("copy into a new tensor, B/s", "y = empty(source.nbytes); copy(y, source)", 2),
        ("copy by torch, B/s", "existing.copy_(source)", 2),
        ("read, B/s", "source.sum()", 1),
    ):
        scope = {"source": source, "existing": existing, "empty": _C.empty_output, "copy": _C.copy_bytes}
        limits[name] = moved * _BYTES / _median(statement, scope, threads)
    if _C.multiply_adds(torch.float32, 1):
        for dtype in _ARITHMETIC:
            limits[f"{str(dtype).removeprefix('torch.')}, flop/s"] = 2 * _rate(dtype, threads)
    return limits
