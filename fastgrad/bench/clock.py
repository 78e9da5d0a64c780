"""The clock that Timer reads: the host's for the CPU, CUDA events for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from timeit import default_timer

import torch

__all__ = ["clock"]


def clock(device: str) -> Callable[[], float]:
    """Seconds between two calls are what the device took for what was queued in between."""
    return default_timer if device == "cpu" else _Events()


class _Events:
    """Adds up the times from event to event: one float32 of milliseconds is exact only over short ones."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.last: torch.cuda.Event | None = None

    def __call__(self) -> float:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if self.last is not None:
            self.seconds += self.last.elapsed_time(event) / 1e3
        self.last = event
        return self.seconds
