"""mse_loss, l1_loss, smooth_l1_loss."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as TF

from fastgrad.bench.arguments import count, two
from fastgrad.bench.case import CALL, PASSES, STORED, Case, both

TARGETS = {
    "forward": {"E": 1.0, "T": 1.0, "C": 1.0},
    "backward": {"E": 1.0, "T": 1.0, "C": 1.0},
    "forward+backward": {"E": 1.0, "T": 1.0, "C": 1.2},
}
FLOPS = {"mse_loss": 3, "l1_loss": 3, "smooth_l1_loss": 7}


def case(op: str, variant: str = "", **settings: Any) -> Case:
    """The mean over 4M elements, unless the settings say otherwise."""
    defaults: dict[str, Any] = {
        "shape": (1 << 22,),
        "args": two(),
        "passes": PASSES,
        "loss": True,
        "targets": TARGETS,
        "why": STORED,
        "flops": lambda shape: FLOPS[op] * count(shape),
        **both(op, TF),
    }
    return Case(op=op, variant=variant, **defaults | settings)


def each_element(op: str) -> Case:
    ours, theirs = both(op, TF).values()
    calls = {"ours": lambda x, t: ours(x, t, reduction="none"), "theirs": lambda x, t: theirs(x, t, reduction="none")}
    return case(op, "none", targets={}, **calls)


CASES = [
    *(case(op, quick=op == "smooth_l1_loss") for op in FLOPS),
    *(each_element(op) for op in FLOPS),
    # The overhead of a call, without and with a graph.
    case("mse_loss", shape=(64,), targets=CALL, compiled=False, quick=True),
    case("mse_loss", shape=(1000,), targets=CALL, compiled=False),
]
