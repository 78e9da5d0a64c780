"""Arithmetic, comparisons, square root, exponential and logarithm."""

from __future__ import annotations

from typing import Any

import torch

from fastgrad.bench.arguments import broadcast_columns, broadcast_rows, count, one, rand, strided, transposed, two
from fastgrad.bench.arguments import with_out as into
from fastgrad.bench.case import CALL, IN_PLACE, NEW, PASSES, Arguments, Case, Shape, both

# Arithmetic operations of the formula for each element, where there is more than one.
FLOPS = {"exp": 11, "log": 18, "pow": 45}
WHY = {
    "exp": {"forward": "bound by arithmetic: an exponential"},
    "add": {"backward": "both hand the incoming gradient on"},
}
OUT = {"forward": {"E": 1.0}}
LAYOUT = {"forward": {"T": 1.5}}
SHORT_RUNS: dict[str, Any] = {
    "targets": {"forward": {"E": 1.0}},
    "compiled": False,
    "why": {"forward": "the call, and what is done once a run"},
}


def case(op: str, variant: str = "", **settings: Any) -> Case:
    """One op on 16M elements, unless the settings say otherwise."""
    defaults: dict[str, Any] = {
        "shape": (4096, 4096),
        "flops": lambda shape: FLOPS.get(op, 1) * count(shape),
        "why": IN_PLACE if op.endswith("_") else WHY.get(op, {}),
        **both(op),
    }
    return Case(op=op, variant=variant, **defaults | settings)


def unary_out(op: str, args: Arguments, **settings: Any) -> Case:
    ours, theirs = both(op).values()
    calls = {"ours": lambda x, out: ours(x, out=out), "theirs": lambda x, out: theirs(x, out=out)}
    return case(op, "out=", args=into(args), out=True, targets=OUT, compiled=False, **calls | settings)


def binary_out(op: str, args: Arguments, **settings: Any) -> Case:
    ours, theirs = both(op).values()
    calls = {"ours": lambda x, y, out: ours(x, y, out=out), "theirs": lambda x, y, out: theirs(x, y, out=out)}
    return case(op, "out=", args=into(args), out=True, targets=OUT, compiled=False, **calls | settings)


def in_place(op: str, args: Arguments, **settings: Any) -> Case:
    return case(op, "in place", args=args, out=True, targets=OUT, compiled=False, **settings)


def outer(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A column and a row."""
    return rand((*shape[:-1], 1), dtype), rand(shape[-1:], dtype)


def two_strided(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return strided(shape, dtype) + strided(shape, dtype)


def near_one(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Of which products stay in range however often an op in place is repeated."""
    return rand(shape, dtype), rand(shape, dtype, 0.9999, 1.0001)


BOTH = (0, 1)
LENGTHS = tuple((1 << k,) for k in range(6, 25, 2))
TOTAL = ("forward", "forward+backward")
UP, POSITIVE = (0.5, 3.0), one(0.5, 3.0)

CASES = [
    case("add", args=two(), gradients=BOTH, passes=PASSES, targets={"forward": NEW}, quick=True, scaling=LENGTHS),
    case("mul", args=two(), gradients=BOTH, passes=TOTAL),
    case("mul", "by a row", args=broadcast_rows, gradients=BOTH, passes=PASSES, targets={"forward": NEW}, quick=True),
    case("mul", "by a column", args=broadcast_columns, gradients=BOTH, passes=PASSES, targets={"forward": NEW}),
    case("exp", args=one(), passes=PASSES, targets={"forward": NEW}, quick=True),
    case("sqrt", args=POSITIVE, passes=PASSES, targets={"forward": NEW}),
    case("sub", args=two()),
    case("div", args=two(*UP), gradients=BOTH, passes=TOTAL),
    case("pow", args=two(*UP), gradients=BOTH, passes=TOTAL),
    case("pow", "squares", args=lambda s, d: (rand(s, d), 2), passes=TOTAL),
    case("log", args=POSITIVE, passes=TOTAL),
    case("neg", args=one()),
    case("abs", args=one(), passes=TOTAL),
    *(case(op, args=two(), passes=("forward",)) for op in ("eq", "ne", "lt", "le", "gt", "ge")),
    # Other dtypes.
    case("add", args=two(), dtype=torch.bfloat16),
    case("add", args=two(), dtype=torch.float64),
    case("mul", args=two(), dtype=torch.int64, gradients=()),
    case("exp", args=one(), dtype=torch.bfloat16),
    case("exp", args=one(), dtype=torch.float64),
    # Layouts.
    case("exp", "strided", args=strided, targets=LAYOUT),
    case("sqrt", "strided", args=lambda s, d: (strided(s, d)[0].abs_(),), targets=LAYOUT),
    case("add", "strided", args=two_strided, targets=LAYOUT),
    case("add", "transposed", args=transposed, targets=LAYOUT, quick=True),
    case("mul", "transposed", args=transposed, targets=LAYOUT),
    case("add", "a column and a row", args=outer, targets=LAYOUT),
    case("div", "by a column", args=broadcast_columns, targets=LAYOUT),
    # Short runs in the cache.
    *(case("add", "by a row", args=broadcast_rows, shape=s, **SHORT_RUNS) for s in ((64, 1000), (1000, 64))),
    *(case("add", "by a column", args=broadcast_columns, shape=s, **SHORT_RUNS) for s in ((1000, 300), (1000, 16))),
    # Into memory that exists.
    binary_out("add", two()),
    binary_out("mul", broadcast_rows),
    unary_out("exp", one()),
    unary_out("sqrt", POSITIVE),
    in_place("add_", two()),
    in_place("mul_", near_one),
    in_place("sub_", two()),
    in_place("div_", near_one),
    # The overhead of a call, without and with a graph.
    case("add", shape=(64,), args=two(), gradients=BOTH, passes=PASSES, targets=CALL, compiled=False, quick=True),
    case("add", shape=(1000,), args=two(), gradients=BOTH, passes=PASSES, targets=CALL, compiled=False),
    case("mul", "by a number", shape=(64,), args=lambda s, d: (rand(s, d), 2.5), targets=CALL, compiled=False),
    in_place("add_", two(), shape=(64,)),
]
