"""Sums, means, products, extremes, variances, log-sum-exp: of everything, of rows (inner) and of columns (outer)."""

from __future__ import annotations

from typing import Any

import torch

from fastgrad.bench.arguments import count, one, rand, two
from fastgrad.bench.case import CALL, NEW, Case, Shape, Targets, both

ALL = {"E": 1.0, "T": 1.0, "C": 1.0}
TWICE = {"E": 2.0, "T": 2.0, "C": 1.0}
SPREAD = {"E": 5.0, "C": 2.0}
INNER_EXTREME, OUTER_EXTREME = {"E": 4.0, "C": 3.0}, {"E": 15.0, "C": 3.0}
HALF_MORE = {"E": 1.5, "T": 1.5, "C": 1.5}
BACK = ("forward", "forward+backward")

SEARCHED = {"forward": "a row is searched for the place once its extreme is known"}
WAITS = dict.fromkeys(BACK, "reads at the machine's limit, as torch does")
FEW_READS = {"forward": "the lanes of 16 rows are combined together, meanwhile fewer reads are on their way"}

# Arithmetic operations for each element, where there is more than one.
FLOPS = {"std": 4, "var": 4, "logsumexp": 13}


def case(op: str, dim: int | None, forward: Targets = ALL, **settings: Any) -> Case:
    """A reduction of 16M elements, unless the settings say otherwise: of everything, or along `dim`."""
    ours, theirs = both(op).values()
    if dim is not None:
        calls = {"ours": lambda x: ours(x, dim), "theirs": lambda x: theirs(x, dim)}
    else:
        calls = {"ours": ours, "theirs": theirs}
    defaults: dict[str, Any] = {
        "shape": (4096, 4096),
        "args": one(0, 1),  # of which no sum cancels
        "flops": lambda shape: FLOPS.get(op, 1) * count(shape),
        "variant": {None: "", 0: "outer"}.get(dim, "inner"),
        "targets": {"forward": forward},
        "dim": dim or 0,
        "why": SEARCHED if forward == INNER_EXTREME else WAITS if dim != 0 and op in ("sum", "mean", "prod") else {},
        **calls,
    }
    return Case(op=op, **defaults | settings)


def near_one(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor]:
    """Of which a product stays in range, and is not of numbers that all differ from 1 by a few roundings."""
    return (rand(shape, dtype, -0.01, 0.01).exp_(),)


SHORT: dict[str, Any] = {"shape": (1 << 20, 16), "variant": "short rows"}

CASES = [
    case("sum", None, passes=BACK, quick=True, scaling=tuple((1 << k,) for k in range(6, 25, 2))),
    case("sum", 1, passes=BACK),
    case("sum", 0, TWICE, passes=BACK, quick=True),
    case("sum", 1, **SHORT, why=FEW_READS),
    case("sum", 1, shape=(30000, 100), variant="short rows", why=FEW_READS),
    case("sum", 0, shape=(10000, 16), variant="few columns"),
    case("sum", 1, shape=(32, 128, 128), variant="middle"),
    case("sum", None, dtype=torch.bfloat16),
    case("sum", None, dtype=torch.float64),
    case("sum", None, dtype=torch.int64, gradients=()),
    case("mean", None, passes=BACK),
    case("mean", 1),
    case("mean", 0, TWICE),
    case("std", None, SPREAD, passes=BACK, quick=True),
    case("std", 1, SPREAD, passes=BACK),
    case("std", 0, SPREAD),
    case("std", 1, **SHORT),
    case("var", None, SPREAD, passes=BACK),
    case("var", 1, SPREAD),
    case("var", 0, SPREAD),
    case("var", None, SPREAD, dtype=torch.bfloat16),
    case("max", None),
    case("max", 1, INNER_EXTREME, passes=BACK, quick=True),
    case("max", 0, OUTER_EXTREME, passes=BACK, quick=True),
    case("max", 1, **SHORT),
    case("min", None),
    case("min", 1, INNER_EXTREME),
    case("min", 0, OUTER_EXTREME),
    case("argmax", None, gradients=()),
    case("argmax", 1, INNER_EXTREME, gradients=()),
    case("argmax", 0, OUTER_EXTREME, gradients=()),
    case("argmax", 1, INNER_EXTREME, gradients=(), dtype=torch.bfloat16),
    case("argmin", 1, INNER_EXTREME, gradients=()),
    case("argmin", 0, OUTER_EXTREME, gradients=()),
    case("amax", None),
    case("amax", 1, passes=BACK),
    case("amax", 0),
    case("amin", 1),
    case("amin", 0),
    case("prod", None, HALF_MORE, args=near_one),
    case("prod", 1, HALF_MORE, args=near_one, passes=BACK),
    case("prod", 0, HALF_MORE, args=near_one),
    case("logsumexp", 1, HALF_MORE, passes=BACK),
    case("logsumexp", 0, HALF_MORE),
    case("logsumexp", 1, HALF_MORE, dtype=torch.bfloat16),
    *(
        Case(
            op=op,
            shape=(4096, 4096),
            args=two(),
            gradients=(0, 1),
            passes=BACK if op == "maximum" else ("forward",),
            targets={"forward": NEW},
            flops=count,
            **both(op),
        )
        for op in ("maximum", "minimum")
    ),
    # The overhead of a call, without and with a graph.
    case("sum", None, shape=(64,), passes=BACK, targets=CALL, compiled=False),
]
