"""relu, sigmoid, tanh."""

from __future__ import annotations

from typing import Any

import torch

from fastgrad.bench.arguments import count, one, strided, with_out
from fastgrad.bench.case import CALL, IN_PLACE, NEW, PASSES, Case, both

LENGTHS = tuple((1 << k,) for k in range(6, 25, 2))
WHY = {
    "sigmoid": {"forward": "bound by arithmetic: an exponential and a division"},
    "tanh": {"forward": "bound by arithmetic: an exponential and a division"},
    "relu_": IN_PLACE,
    "sigmoid_": IN_PLACE,
}
# Arithmetic operations of the formula for each element, a division counted as one.
FLOPS = {"relu": 1, "sigmoid": 14, "tanh": 22}


def case(op: str, variant: str = "", **settings: Any) -> Case:
    """One of the three on 16M elements, unless the settings say otherwise."""
    name = op.rstrip("_")
    defaults: dict[str, Any] = {
        "shape": (4096, 4096),
        "args": one(),
        "flops": lambda shape: FLOPS[name] * count(shape),
        "backward_flops": 4 / FLOPS[name],
        "why": WHY.get(op, {}),
        **both(op),
    }
    return Case(op=op, variant=variant, **defaults | settings)


def into(op: str, **settings: Any) -> Case:
    ours, theirs = both(op).values()
    calls = {"ours": lambda x, out: ours(x, out=out), "theirs": lambda x, out: theirs(x, out=out)}
    return case(op, "out=", args=with_out(one()), out=True, targets={"forward": {"E": 1.0}}, **calls | settings)


CASES = [
    case("relu", passes=PASSES, targets={"forward": NEW}, quick=True),
    case("sigmoid", passes=PASSES, targets={"forward": NEW}, quick=True, scaling=LENGTHS),
    case("tanh", passes=PASSES, targets={"forward": {"E": 2.5, "T": 3.0, "C": 1.0}}, quick=True),
    *(case(op, dtype=torch.bfloat16, passes=("forward", "forward+backward")) for op in FLOPS),
    *(case(op, dtype=torch.float64) for op in FLOPS),
    *(case(op, "strided", args=strided, targets={"forward": {"T": 1.5}}, quick=op == "sigmoid") for op in FLOPS),
    *(into(op, compiled=False) for op in ("sigmoid", "tanh")),  # torch.relu has no out=
    case("relu_", "in place", out=True, targets={"forward": {"E": 1.0}}, compiled=False),
    case("sigmoid_", "in place", out=True, targets={"forward": {"E": 1.0}}, compiled=False),
    # The overhead of a call, without and with a graph.
    case("sigmoid", shape=(64,), passes=PASSES, targets=CALL, compiled=False, quick=True),
    case("sigmoid", shape=(1000,), passes=PASSES, targets=CALL, compiled=False),
    case("relu", shape=(64,), passes=PASSES, targets=CALL, compiled=False),
]
