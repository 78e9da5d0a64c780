"""Matrix products: square, odd, skinny, transposed, batched; linear layers with bias and activation."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as TF

import fastgrad.functional as F
from fastgrad.bench.arguments import rand
from fastgrad.bench.case import CALL, PASSES, Case, Shape, Targets, both

LEVEL: Targets = {"E": 1.0, "T": 1.0}
AHEAD: Targets = {"E": 1.03, "T": 1.03}
AT_PEAK: Targets = {"E": 1.03, "T": 1.03, "limit": 0.92}
BACKWARD = {"forward": LEVEL, "backward": AHEAD, "forward+backward": LEVEL}
ACTIVATED = {"forward": {"E": 1.1, "T": 1.1}}


def reason(shape: Shape, dtype: torch.dtype, activated: bool = False) -> str:
    """Why a product may be below its targets."""
    if dtype == torch.bfloat16:
        return "oneDNN multiplies pairs likewise"
    if activated:
        return "one pass over the result is saved, 2 to 4% of the product"
    if min(shape) == 1:
        return ""
    if min(shape) < 64:
        return "registers are partly empty, and each step has few multiply-adds to a load"
    return "packing, and the first touch of the result, take 7 to 12% of the time, and more of small ones"


def operand(rows: int, columns: int, dtype: torch.dtype, transposed: bool) -> torch.Tensor:
    return rand((columns, rows), dtype).T if transposed else rand((rows, columns), dtype)


def product(shape: tuple[int, int, int], layout: str = "NN", targets: Targets = LEVEL, **settings: Any) -> Case:
    """(M, K) @ (K, N); a T in the layout marks an operand that is the transpose of a contiguous matrix.

    torch.compile calls the same library as eager does: nothing to compare.
    """

    def args(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        m, k, n = shape
        return operand(m, k, dtype, layout[0] == "T"), operand(k, n, dtype, layout[1] == "T")

    defaults: dict[str, Any] = {
        "args": args,
        "gradients": (0, 1),
        "targets": {"forward": targets},
        "flops": lambda s: 2.0 * s[0] * s[1] * s[2],
        "backward_flops": 2.0,
        "compute_bound": True,
        "compiled": False,
        "sizes": 3,
        "why": {"forward": reason(shape, settings.get("dtype", torch.float32))},
        **both("matmul"),
    }
    return Case(op="matmul", shape=shape, variant=layout, **defaults | settings)


def batched(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    b, m, k, n = shape
    return rand((b, m, k), dtype), rand((b, k, n), dtype)


def linear(shape: tuple[int, int, int], **settings: Any) -> Case:
    """Rows, inputs, outputs."""

    def args(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, inputs, outputs = shape
        bound = inputs**-0.5  # as nn.Linear begins: an activation is not saturated everywhere
        return rand((rows, inputs), dtype), rand((outputs, inputs), dtype, -bound, bound), rand((outputs,), dtype)

    defaults: dict[str, Any] = {
        "args": args,
        "gradients": (0, 1, 2),
        "passes": PASSES,
        "targets": BACKWARD,
        "flops": lambda s: 2.0 * s[0] * s[1] * s[2],
        "backward_flops": 2.0,
        "compute_bound": True,
        "compiled": False,
        "sizes": 3,
        "why": dict.fromkeys(PASSES, reason(shape, settings.get("dtype", torch.float32), "variant" in settings)),
        **both("linear", TF),
    }
    return Case(op="linear", shape=shape, **defaults | settings)


def activated(activation: str, shape: tuple[int, int, int], **settings: Any) -> Case:
    """One pass, against linear and then the activation."""
    function = getattr(torch, activation)
    return linear(
        shape,
        variant=f"+ {activation}",
        ours=lambda x, w, b: F.linear(x, w, b, activation=activation),
        theirs=lambda x, w, b: function(TF.linear(x, w, b)),
        passes=("forward", "forward+backward"),
        targets=ACTIVATED,
        compiled=True,
        **settings,
    )


LAYOUTS = ("NN", "NT", "TN", "TT")
SMALL: dict[str, Any] = {"compute_bound": False}  # reading the matrix takes longer than multiplying

SQUARES = tuple((n, n, n) for n in (8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048))

CASES = [
    *(
        product(
            (n, n, n),
            layout,
            LEVEL if n <= 64 else AHEAD if n < 512 else AT_PEAK,
            quick=layout == "NN" and n in (128, 1024),
        )
        for n in (64, 128, 256, 512, 1024, 2048)
        for layout in LAYOUTS
        if (n, layout) != (512, "NN")
    ),
    product((512, 512, 512), "NN", AT_PEAK, quick=True, scaling=SQUARES),
    *(product((777, 333, 555), layout, AHEAD, quick=layout == "TN") for layout in LAYOUTS),
    *(product((n, n, n)) for n in (8, 16, 32, 48)),
    *(product((1000, n, n)) for n in (16, 24, 48)),  # columns that do not fill a tile
    # Skinny ones.
    product((759, 8, 1)),
    *(product((m, k, 10), layout) for m, k in ((256, 512), (1000, 784)) for layout in ("NN", "NT")),  # few columns
    product((64, 784, 512), "NT"),
    product((64, 784, 512)),
    product((1, 4096, 4096), **SMALL, quick=True),
    product((1, 4096, 4096), "NT", **SMALL),
    product((4096, 4096, 1), **SMALL),
    product((4096, 4096, 1), "TN", **SMALL),
    # Other dtypes.
    *(product((n, n, n), layout, dtype=torch.bfloat16) for n in (256, 512, 1024, 2048) for layout in ("NN", "NT")),
    product((777, 333, 555), dtype=torch.bfloat16),
    product((1, 4096, 4096), "NT", dtype=torch.bfloat16, **SMALL),
    *(product((n, n, n), targets=AHEAD, dtype=torch.float64) for n in (64, 256, 512, 1024)),
    *(product((777, 333, 555), layout, AHEAD, dtype=torch.float64) for layout in LAYOUTS),
    Case(
        op="bmm",
        shape=(64, 128, 64, 128),
        args=batched,
        gradients=(0, 1),
        passes=PASSES,
        targets={which: LEVEL for which in PASSES},
        flops=lambda s: 2.0 * s[0] * s[1] * s[2] * s[3],
        backward_flops=2.0,
        compute_bound=True,
        compiled=False,
        sizes=4,
        **both("bmm"),
    ),
    # Layers.
    linear((512, 1024, 1024), quick=True),
    linear((256, 512, 10)),
    linear((16, 768, 768)),
    *(linear((rows, 784, 512)) for rows in (32, 64)),
    linear((4096, 256, 256)),
    linear((512, 1024, 1024), dtype=torch.bfloat16),
    *(activated(a, (512, 1024, 1024), quick=a == "relu") for a in ("relu", "sigmoid", "tanh")),
    activated("relu", (64, 784, 512)),
    activated("relu", (4096, 256, 256)),
    activated("sigmoid", (759, 8, 1)),
    # The overhead of a call, without and with a graph.
    linear((64, 8, 1), targets=CALL, quick=True),
    linear((1000, 8, 1), targets=CALL),
]
