"""What this machine can do at best: bandwidth of reading and copying, multiply-adds a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.benchmark import Timer

import fastgrad
from fastgrad.bench.case import Case

__all__ = ["measure", "step"]

_BYTES = 64 << 20


def step(case: Case, traffic: dict[str, float]) -> tuple[Callable[[], Any] | None, float]:
    """A function that does the least any implementation must, and how many times it has to be done."""
    device = "cpu"
    if case.compute_bound:
        return _multiply_adds(case.dtype, traffic["flops"])
    written, read = int(traffic["written"]), int(traffic["read"])
    if min(written, read) < 0 or written + read < 4096:
        return None, 0.0
    # uint8 tensors: dtypes do not matter to a copy.
    copied = torch.zeros(min(written, read) or 1, dtype=torch.uint8, device=device)
    rest = torch.zeros(max(0, read - written) // 4, dtype=torch.float32, device=device)
    existing = torch.empty_like(copied) if case.out else None
    draw = None

    def run() -> Any:
        nonlocal draw
        if written:
            draw = copied.clone() if existing is None else existing.copy_(copied)
        return rest.sum() if rest.numel() > 1024 else draw

    return run, 1.0


def _multiply_adds(dtype: torch.dtype, flops: float) -> tuple[Callable[[], Any] | None, float]:
    return None, 0.0


def measure(threads: int) -> dict[str, float]:
    """Bytes a second of a copy into a new tensor, into an existing one, and of reading; 64 MiB."""
    source = torch.rand(_BYTES // 4)
    existing = torch.rand(_BYTES // 4)
    best = {}
    for name, run, moved in (
        ("copy into a new tensor, B/s", source.clone, 2),
        ("copy, B/s", lambda: existing.copy_(source), 2),
        ("read, B/s", source.sum, 1),
    ):
        timer = Timer("y = f()", globals={"f": run}, num_threads=threads)
        times = [timer.timeit(1).times[0] for _ in range(9)]
        best[name] = moved * _BYTES / sorted(times)[len(times) // 2]
    return best


_ = fastgrad
