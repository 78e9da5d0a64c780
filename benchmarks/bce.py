"""Binary cross-entropy: of probabilities, of logits, and of a sigmoid's result."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as TF

import fastgrad.functional as F
from fastgrad.bench.arguments import count, rand
from fastgrad.bench.case import CALL, PASSES, STORED, Arguments, Case, Shape, Targets, both

# Beyond the logits one buffer, the gradient; a little is for what pieces of the work return.
MEMORY = {"memory": 1.01}


def args(low: float, high: float) -> Arguments:
    def make(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return rand(shape, dtype, low, high), torch.randint(2, shape).to(dtype)

    return make


def case(op: str, variant: str = "", total: Targets = MEMORY, **settings: Any) -> Case:
    """The mean over 4M elements, unless the settings say otherwise; `total`: targets of both passes together."""
    of_logits = op.endswith("logits") or variant == "of a sigmoid"
    defaults: dict[str, Any] = {
        "shape": (1 << 22,),
        "args": args(-6, 6) if of_logits else args(0.01, 0.99),
        "passes": PASSES,
        "loss": True,
        "targets": {"forward+backward": total},
        "flops": lambda shape: 36 * count(shape),
        "backward_flops": 0.4,
        "why": STORED,
        **both(op, TF),
    }
    return Case(op=op, variant=variant, **defaults | settings)


OF_A_SIGMOID: dict[str, Any] = {
    "ours": lambda x, t: F.binary_cross_entropy(F.sigmoid(x), t),
    "theirs": lambda x, t: TF.binary_cross_entropy(torch.sigmoid(x), t),
}
LOGITS = "binary_cross_entropy_with_logits"

CASES = [
    case(LOGITS, total={"E": 4.0, "C": 1.8, **MEMORY}, quick=True),
    case("binary_cross_entropy", total={"E": 1.0, "T": 1.0, "C": 1.0, **MEMORY}),
    case(
        "binary_cross_entropy",
        "of a sigmoid",
        {"E": 6.0, "C": 1.5},
        **OF_A_SIGMOID,
        quick=True,
        why=dict.fromkeys(PASSES, "three passes move 8 n s bytes; torch.compile makes two loops of them, moving 5"),
    ),
    case(LOGITS, total={"E": 1.0, "T": 1.0, "C": 1.0, **MEMORY}, dtype=torch.bfloat16),
    case(
        LOGITS,
        "none",
        total={"E": 1.0, "T": 1.0, "C": 1.0},
        ours=lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
        theirs=lambda x, t: TF.binary_cross_entropy_with_logits(x, t, reduction="none"),
    ),
    # The overhead of a call, without and with a graph.
    case(LOGITS, shape=(64,), targets=CALL, compiled=False, quick=True),
    case(LOGITS, shape=(1000,), targets=CALL, compiled=False),
]
