"""cross_entropy and nll_loss: many classes, a thousand, few; label smoothing, probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as TF

import fastgrad.functional as F
from fastgrad.bench.arguments import count, rand
from fastgrad.bench.case import CALL, PASSES, Case, Shape, both

# Beyond the logits one buffer, the gradient; a little is for what each row keeps.
MEMORY = {"memory": 1.25}
TOTAL = {"forward+backward": {"E": 7.0, "T": 2.5, "C": 2.5, **MEMORY}}
BOTH = ("forward+backward",)
ARITHMETIC = "bound by arithmetic: a maximum, an exponential, a sum, a product and two stores"
ONCE_A_ROW = "what is done once a row takes as long as the exponentials of its ten elements"
KEPT = "8 bytes a row are kept for backward, and a row has 20"
HALF = "bound by arithmetic, with two conversions besides, where torch is faster than in float32"


def logits(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return rand(shape, dtype), torch.randint(shape[1], (shape[0], *shape[2:]))


def probabilities(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return rand(shape, dtype), torch.softmax(rand(shape, torch.float32), 1).to(dtype)


def case(op: str, shape: tuple[int, ...], variant: str = "", **settings: Any) -> Case:
    """The mean over the rows."""
    defaults: dict[str, Any] = {
        "args": logits,
        "passes": PASSES,
        "loss": True,
        "dim": 1,
        "targets": TOTAL,
        "flops": lambda s: 14 * count(s),
        "why": {"forward+backward": ONCE_A_ROW if shape[1] == 10 else ARITHMETIC},
        **both(op, TF),
    }
    return Case(op=op, shape=shape, variant=variant, **defaults | settings)


SMOOTHED: dict[str, Any] = {
    "variant": "smoothed",
    "ours": lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
    "theirs": lambda x, t: TF.cross_entropy(x, t, label_smoothing=0.1),
}
SHAPES = ((512, 32000), (8192, 1000), (65536, 10))

ROWS = tuple((1 << k, 1000) for k in range(0, 15, 2))

CASES = [
    *(case("cross_entropy", shape, quick=True, scaling=ROWS if shape[1] == 1000 else ()) for shape in SHAPES),
    *(
        case(
            "cross_entropy",
            shape,
            dtype=torch.bfloat16,
            passes=BOTH,
            quick=shape[1] == 1000,
            why={"forward+backward": KEPT if shape[1] == 10 else HALF},
        )
        for shape in SHAPES
    ),
    *(case("cross_entropy", shape, **SMOOTHED, passes=BOTH) for shape in SHAPES),
    case("cross_entropy", (16384, 64), passes=BOTH, targets={"forward+backward": {"E": 2.5, "T": 2.5, "C": 2.5}}),
    case("cross_entropy", (8192, 1000), "probabilities", args=probabilities, passes=BOTH, targets={}),
    case("nll_loss", (8192, 1000), targets={}, flops=lambda s: s[0], why={"forward": "one element of each page"}),
    # The overhead of a call, without and with a graph.
    case("cross_entropy", (64, 10), targets=CALL, compiled=False),
]
