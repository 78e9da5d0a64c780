"""What a benchmark case is. The cases themselves are in benchmarks/, installed as fastgrad.bench.cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch

import fastgrad.functional

__all__ = [
    "CALL",
    "DTYPES",
    "FAMILIES",
    "FORWARD",
    "NEW",
    "PASSES",
    "STEP",
    "Arguments",
    "Case",
    "Shape",
    "both",
    "find",
    "load",
]

FAMILIES: tuple[str, ...] = (
    "arithmetic",
    "activations",
    "reductions",
    "softmax",
    "matmul",
    "regression_losses",
    "bce",
    "cross_entropy",
    "training",
)
PASSES = ("forward", "backward", "forward+backward")
STEP = ("step",)  # of training: a pass of its own
FORWARD = ("forward", "step")  # measured as a plain call
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}

Shape = tuple[int, ...]
Key = tuple[str, int, Shape, torch.dtype, tuple[str, ...]]
Arguments = Callable[[Shape, torch.dtype], tuple[Any, ...]]
# A ratio their time / ours that is expected at least: of torch eager (E), of torch eager with huge pages (T), of the
# better of torch.compile's two settings (C). "limit": the share of the machine's limit. At most: "call", the seconds
# by which a call may be longer than torch's; "memory", the bytes beyond the arguments, per byte of the first one.
Targets = Mapping[str, float]
_DEFAULT = {"E": 1.0, "T": 1.0, "C": 1.0}
# Of an elementwise op into a new tensor, and of a call on few elements.
NEW = {"E": 2.5, "T": 1.0, "C": 1.0, "limit": 0.9}
CALL: Mapping[str, Targets] = {"forward": {"call": 0.8e-6}, "backward": {}, "forward+backward": {}}
# Why a pass may be below its targets.
IN_PLACE = {"forward": "torch's, too, reads and writes each element once"}
STORED = {"backward": "torch.compile's forward pass stores what this needs, and ours reads the arguments again"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call, of fastgrad and of torch, on random arguments of one shape and dtype.

    `args(shape, dtype)` makes fresh arguments of the call; `ours(*args)` and `theirs(*args)` are the calls. The
    arguments at the places `gradients` get gradients in the passes backward and forward+backward. `targets` are by
    pass. `flops(shape)` counts the arithmetic of the forward pass, for the roofline; with `compute_bound` it, and not
    the memory traffic, gives the limit. `out` says that the result goes to memory that exists (out=, in place);
    `loss`, that where the result is one number, one reading of the arguments can serve forward and backward together.
    """

    op: str
    shape: Shape
    args: Arguments
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    variant: str = ""
    dtype: torch.dtype = torch.float32
    gradients: tuple[int, ...] = (0,)
    passes: tuple[str, ...] = ("forward",)
    targets: Mapping[str, Targets] = field(default_factory=dict)
    flops: Callable[[Shape], float] | None = None
    backward_flops: float = 1.0  # of the backward pass, per one of the forward pass
    compute_bound: bool = False
    out: bool = False
    loss: bool = False
    compiled: bool = True
    reference: bool = True  # theirs in float64 is what errors are measured against
    sizes: int | None = None  # how many sizes a shape has; None: more than `dim`
    dim: int = 0  # along which the op works
    quick: bool = False  # also in --quick
    scaling: tuple[Shape, ...] = ()  # shapes for the plot of scaling with size; without any, in no scaling plot
    why: Mapping[str, str] = field(default_factory=dict)  # a pass is below its targets, where that is known
    family: str = ""
    index: int = -1  # in its family's list: how a worker process finds it again
    chosen: bool = False  # shape or dtype are the user's, and the targets therefore not meant

    @property
    def title(self) -> str:
        return f"{self.op} {self.variant}".strip()

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def shape_name(self) -> str:
        return "x".join(map(str, self.shape))

    def quickly(self) -> Case:
        """Only the passes that targets are stated for."""
        return replace(self, passes=tuple(p for p in self.passes if self.targets.get(p)) or self.passes)

    def scaled(self, shape: Shape) -> Case:
        """One pass, on a shape of a scaling plot."""
        return replace(self.quickly(), shape=shape, passes=self.quickly().passes[:1])

    def targets_of(self, which: str) -> Targets:
        if self.chosen:
            return _DEFAULT
        return self.targets.get(which, _DEFAULT)

    def with_(self, shape: Shape, dtype: torch.dtype) -> Case:
        """This case with another shape or dtype; ValueError, in one line, for a shape that it cannot have.

        Integers have no gradients: of them, only the forward pass is left.
        """
        if self.sizes not in (None, len(shape)):
            raise ValueError(f"{self.title} takes a shape of {self.sizes} sizes, as {self.shape_name}")
        if len(shape) <= self.dim:
            given = "x".join(map(str, shape))
            raise ValueError(
                f"{self.op} along dim {self.dim} takes a shape of at least {self.dim + 1} sizes, not {given}"
            )
        passes = self.passes
        if not dtype.is_floating_point:
            passes = tuple(p for p in passes if p in FORWARD) or ("forward",)
        chosen = (shape, dtype) != (self.shape, self.dtype)
        return replace(self, shape=shape, dtype=dtype, passes=passes, chosen=chosen)

    def key(self) -> Key:
        return self.family, self.index, self.shape, self.dtype, self.passes


def load(families: Iterable[str] = FAMILIES) -> Iterator[Case]:
    """The cases of benchmarks/<family>.py, in their order."""
    for family in families:
        cases = import_module(f"fastgrad.bench.cases.{family}").CASES
        for index, case in enumerate(cases):
            yield replace(case, family=family, index=index)


def find(key: Key) -> Case:
    """The case that `Case.key` stands for."""
    family, index, shape, dtype, passes = key
    case = import_module(f"fastgrad.bench.cases.{family}").CASES[index]
    return replace(case, family=family, index=index, shape=shape, dtype=dtype, passes=passes)


def both(name: str, namespace: Any = torch) -> dict[str, Any]:
    """fastgrad's function of this name, and torch's: the arguments `ours` and `theirs` of a Case."""
    in_place = name.endswith("_") and not hasattr(namespace, name)
    theirs = getattr(torch.Tensor if in_place else namespace, name)
    return {"ours": getattr(fastgrad.functional, name), "theirs": theirs}
