"""Run a model forward and backward without a trace, and compare two such runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

_SEED = 0  # of the random gradient that backward starts from


@dataclass(frozen=True)
class Evaluation:
    """Outputs in order, and the gradient of each parameter and input by name (None: it got none)."""

    outputs: list[torch.Tensor]
    gradients: dict[str, torch.Tensor | None]


@dataclass(frozen=True)
class Differences:
    """The largest differences between two runs: absolute, beside the largest magnitude met.

    `gradient` is None where no output depends on a parameter or input that takes a gradient.
    """

    output: float
    output_size: float
    gradient: float | None
    gradient_size: float | None
    gradient_of: str | None

    def __str__(self) -> str:
        text = f"largest difference of outputs {self.output:.3g} (outputs up to {self.output_size:.3g})"
        if self.gradient is None:
            return f"{text}; no gradients"
        where = f", in {self.gradient_of}" if self.gradient else ""
        return f"{text}; of gradients {self.gradient:.3g}{where} (gradients up to {self.gradient_size:.3g})"


def evaluate(model: torch.nn.Module, sample: Any) -> Evaluation:
    """Run `model` on `sample`, and backward from a fixed random gradient.

    Leaves parameters, their .grad, buffers and the random state as they were.
    """
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[d.index for d in devices]))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            return _run(model, sample)
    finally:
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                module._buffers[name] = buffer
                if buffer is not None and values is not None:
                    buffer.copy_(values)


def compare(before: Evaluation, after: Evaluation) -> Differences:
    """Compare two evaluations of the same model on the same sample."""
    if len(before.outputs) != len(after.outputs):
        raise RuntimeError(f"the model gave {len(before.outputs)} tensors before, {len(after.outputs)} after")
    outputs = [_difference(a, b) for a, b in zip(before.outputs, after.outputs, strict=True)]
    gradients = {
        name: (_difference(a, b), _size(a)) if a is not None and b is not None else (float("inf"), 0.0)
        for name, a in before.gradients.items()
        for b in [after.gradients.get(name)]
        if a is not None or b is not None
    }
    worst = max(gradients, key=lambda name: gradients[name][0], default=None)
    return Differences(
        output=max(outputs, default=0.0),
        output_size=max(map(_size, before.outputs), default=0.0),
        gradient=None if worst is None else gradients[worst][0],
        gradient_size=None if worst is None else max(size for _, size in gradients.values()),
        gradient_of=worst,
    )


def _run(model: torch.nn.Module, sample: Any) -> Evaluation:
    leaves: dict[str, torch.Tensor] = {}

    def prepared(name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        leaf = value.detach().clone()
        if value.requires_grad or (leaf.is_floating_point() and not leaves):
            leaves[f"input {name}"] = leaf.requires_grad_()
            return leaf.clone()  # no leaf, so that the model may change it in place
        return leaf

    if isinstance(sample, Mapping):
        output = model(**{name: prepared(name, value) for name, value in sample.items()})
    else:
        arguments = sample if isinstance(sample, tuple) else (sample,)
        output = model(*(prepared(str(i), value) for i, value in enumerate(arguments)))

    leaves |= {name: p for name, p in model.named_parameters() if p.requires_grad}
    outputs = list(tensors(output))
    roots = [out for out in outputs if out.requires_grad]
    found: tuple[torch.Tensor | None, ...] = (None,) * len(leaves)
    if roots and leaves:
        generator = torch.Generator().manual_seed(_SEED)  # the CPU's, whatever the default device
        starts = [
            torch.randn(out.shape, generator=generator, device="cpu").to(out) if out.dim() else torch.ones_like(out)
            for out in roots
        ]
        found = torch.autograd.grad(roots, list(leaves.values()), starts, allow_unused=True)
    return Evaluation([out.detach().clone() for out in outputs], dict(zip(leaves, found, strict=True)))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a model returns: a tensor, or nested sequences and mappings of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def _size(x: torch.Tensor) -> float:
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64).abs().max().item() if x.numel() else 0.0


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest |a - b|; equal infinities and NaN on both sides are no difference, anything else with them is inf."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.detach().to(wide), b.detach().to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    gap = (a - b).abs().masked_fill(same, 0.0)
    return gap.nan_to_num(nan=float("inf"), posinf=float("inf")).max().item()
