"""softmax and log_softmax: of long rows, of short rows, of columns."""

from __future__ import annotations

from typing import Any

import torch

from fastgrad.bench.arguments import count, one
from fastgrad.bench.case import CALL, PASSES, Case, both

TARGETS = {"forward": {"E": 2.5, "T": 1.1, "C": 1.0}, "backward": {"T": 1.2}}
HALF = {"forward": {"T": 1.1}, "backward": {"T": 1.2}}
# A result that the last cache holds: nothing is gained by its pages.
CACHED = {"forward": {"E": 1.1, "T": 1.1, "C": 1.0}, "backward": {"E": 1.0, "T": 1.0, "C": 1.0}}


def case(op: str, shape: tuple[int, ...], dim: int, variant: str, **settings: Any) -> Case:
    ours, theirs = both(op).values()
    defaults: dict[str, Any] = {
        "args": one(),
        "dim": dim,
        "ours": lambda x: ours(x, dim),
        "theirs": lambda x: theirs(x, dim),
        "passes": PASSES,
        "targets": TARGETS,
        "flops": lambda s: 14 * count(s),  # an exponential, a maximum, two sums, a product
        "backward_flops": 4 / 14,
        "why": {"backward": "both wait for the last cache"} if settings.get("targets") is CACHED else {},
    }
    return Case(op=op, shape=shape, variant=variant, **defaults | settings)


ROWS = tuple((1 << k, 1024) for k in range(0, 15, 2))

CASES = [
    each
    for op in ("softmax", "log_softmax")
    for each in (
        case(op, (4096, 4096), 1, "", quick=op == "softmax", scaling=ROWS if op == "softmax" else ()),
        case(op, (1 << 20, 16), 1, "short rows", quick=op == "softmax"),
        case(op, (4096, 4096), 0, "dim 0"),
        case(op, (4096, 4096), 1, "", dtype=torch.bfloat16, targets=HALF, quick=op == "softmax"),
        case(op, (1 << 20, 16), 1, "short rows", dtype=torch.bfloat16, targets=HALF),
        case(op, (4096, 4096), 0, "dim 0", dtype=torch.bfloat16, targets=HALF),
        case(op, (16384, 64), 1, "", targets=CACHED),
        case(op, (2048, 512), 1, "", targets=CACHED),
        case(op, (16384, 64), 1, "", dtype=torch.bfloat16, targets=CACHED),
        case(op, (64, 1000, 256), 1, "dim 1"),
        case(op, (64, 10), 1, "", targets=CALL, compiled=False),
    )
]
