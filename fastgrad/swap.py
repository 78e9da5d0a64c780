"""Put fastgrad's layers into a model, and take them out again.

A fastgrad layer is a subclass of torch's that adds no state, so a layer is swapped by assignment to its `__class__`:
it stays the same object. Parameters, buffers, hooks, the training flag, extra attributes, sharing between parts of the
model, and whatever else refers to the layer (an optimizer, a list of your own) survive because nothing was copied.

Only layers whose class is exactly torch's are swapped. A subclass may do anything in its forward, so it is left alone.
That includes the classes that torch itself derives on the fly, for `torch.nn.utils.parametrize` and for FSDP. The older
`torch.nn.utils.weight_norm` and `spectral_norm` work through hooks and keep the class: such layers are swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from fastgrad import nn
from fastgrad._build_info import CUDA_VERSION
from fastgrad._tables import below, render, table
from fastgrad._verify import Differences, Evaluation, compare, evaluate

__all__ = ["Layer", "SwapReport", "restore", "swap"]

_LAYERS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__
}
_ORIGINALS = {ours: theirs for theirs, ours in _LAYERS.items()}
_CONTAINERS = (
    torch.nn.Sequential,
    torch.nn.ModuleList,
    torch.nn.ModuleDict,
    torch.nn.ParameterList,
    torch.nn.ParameterDict,
    torch.nn.Identity,
)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DEVICES = ("cpu", "meta", "cuda") if CUDA_VERSION else ("cpu", "meta")
_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Layer:
    """One layer of a model: every name it is reachable by, its class, and why it was left (None: it was swapped)."""

    names: tuple[str, ...]
    kind: str
    reason: str | None = None


@dataclass(frozen=True)
class SwapReport:
    """What :func:`swap` did to a model. `print(report)` shows it as a table."""

    swapped: list[Layer] = field(default_factory=list)
    left: list[Layer] = field(default_factory=list)
    differences: Differences | None = None

    def __rich__(self) -> Any:
        rows = []
        groups: dict[tuple[str, str], list[str]] = {}
        for layer in (*self.swapped, *self.left):
            outcome = "swapped" if layer.reason is None else f"left: {layer.reason}"
            groups.setdefault((layer.kind, outcome), []).append(" = ".join(map(_shown, layer.names)))
        for (kind, outcome), names in groups.items():
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            rows.append((kind, str(len(names)), ", ".join(names[:_NAMES_SHOWN]) + more, outcome))
        layers = table(("layer", "count", "where", "outcome"), rows, right=("count",))
        return layers if self.differences is None else below(layers, str(self.differences))

    def __str__(self) -> str:
        return render(self)


def swap(model: torch.nn.Module, *, verify: Any = None) -> SwapReport:
    """Put fastgrad's layers in the place of torch's, anywhere inside `model` (and `model` itself), in place.

    Functions called in a forward method (`torch.sigmoid`, `torch.nn.functional.relu`) are no layers and stay torch's.

    Args:
        model: any module: a network, a loss, a layer. Nothing outside its own submodules is touched.
        verify: a sample input: a tensor, a tuple of positional arguments, or a dict of keyword arguments. The model
            runs forward and backward on it before and after, from the same random state, and the report gives the
            largest difference of outputs and of gradients. Parameters, their .grad, buffers and the random state are
            as before afterwards; other state that a forward or a hook of yours keeps is not known here and sees two
            more calls. If the model fails on the sample after the swap, or the two runs cannot be compared, the swap is
            undone and the error raised.

    Returns:
        The report: layers swapped, layers left and why, differences.

    Raises:
        TypeError: `model` is no torch.nn.Module, or `verify` is no tensor, tuple or dict.
    """
    _check_model(model, "swap")
    if verify is not None and not isinstance(verify, torch.Tensor | tuple | Mapping):
        raise TypeError(
            "swap(): argument 'verify' must be a sample input, a Tensor, a tuple of positional arguments or a dict of "
            f"keyword arguments, not {type(verify).__name__}"
        )
    before: Evaluation | None = None if verify is None else evaluate(model, verify)

    report = SwapReport()
    changed: list[torch.nn.Module] = []
    everything = [*model.parameters(), *model.buffers()]
    of_model = {t.device.type for t in everything}, {t.dtype for t in everything if t.is_complex()}
    for module, names in _modules(model):
        kind = type(module).__name__
        reason = _reason_to_leave(module, of_model)
        if reason is None:
            module.__class__ = _LAYERS[type(module)]
            changed.append(module)
            report.swapped.append(Layer(names, kind))
        elif reason:
            report.left.append(Layer(names, kind, reason))
    if before is None:
        return report
    try:
        return SwapReport(report.swapped, report.left, compare(before, evaluate(model, verify)))
    except BaseException:
        for module in changed:
            module.__class__ = _ORIGINALS[type(module)]
        raise


def restore(model: torch.nn.Module) -> list[str]:
    """Undo :func:`swap`: every layer of `model` whose class is fastgrad's becomes torch's again, in place.

    Returns:
        The names of those layers; "" is the model itself.

    Raises:
        TypeError: `model` is no torch.nn.Module.
    """
    _check_model(model, "restore")
    restored = []
    for module, names in _modules(model):
        kind = type(module)
        if kind in _ORIGINALS:
            module.__class__ = _ORIGINALS[kind]
        elif is_parametrized(module) and kind.__bases__[0] in _ORIGINALS:  # since the swap: a class of its own
            own = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, (_ORIGINALS[kind.__bases__[0]],), own)  # copies share the old class
        else:
            continue
        restored.append(names[0])
    return restored


def _check_model(model: object, function: str) -> None:
    if not isinstance(model, torch.nn.Module):
        hint = ": pass an instance" if isinstance(model, type) else ""
        got = model.__name__ if isinstance(model, type) else type(model).__name__
        raise TypeError(f"{function}(): argument 'model' must be a torch.nn.Module, not {got}{hint}")


def _modules(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, tuple[str, ...]]]:
    """Every module once, with all of its names. One inside itself is not entered again."""
    names: dict[torch.nn.Module, list[str]] = {}

    def visit(module: torch.nn.Module, name: str, around: tuple[torch.nn.Module, ...]) -> None:
        names.setdefault(module, []).append(name)
        around = (*around, module)
        for child_name, child in module._modules.items():
            if child is not None and not any(child is outer for outer in around):
                visit(child, f"{name}.{child_name}" if name else child_name, around)

    visit(model, "", ())
    for module, aliases in names.items():
        yield module, tuple(aliases)


def _reason_to_leave(module: torch.nn.Module, of_model: tuple[set[str], set[torch.dtype]]) -> str | None:
    """None: swap it. "": it is no layer. Otherwise why it stays as it is.

    `of_model`: the devices and the complex dtypes of the whole model, which a layer without tensors will see.
    """
    kind = type(module)
    if kind in _LAYERS:
        if "forward" in vars(module):
            return "has a forward of its own, set on the instance"
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        own = {t.device.type for t in tensors}, {t.dtype for t in tensors}
        places, dtypes = own if tensors else of_model
        for missing in (*places.difference(_DEVICES), *dtypes.difference(_DTYPES)):
            return f"no kernels for {missing}"
        return None
    if kind in _ORIGINALS:
        return "already fastgrad's"
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module"
    parents = [parent for parent in kind.__mro__ if parent in _LAYERS or parent in _ORIGINALS]
    if parents and isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
        return "not initialized yet: run it once, then swap"
    if parents:
        return "parametrized" if is_parametrized(module) else f"its own class, derived from {parents[0].__name__}"
    is_leaf = not any(True for _ in module.children()) or any(True for _ in module.parameters(recurse=False))
    is_public = kind.__module__.startswith("torch.") and not kind.__name__.startswith("_")
    if is_public and is_leaf and not isinstance(module, _CONTAINERS):
        return "no fastgrad layer"
    return ""


def _shown(name: str) -> str:
    return name or "(the model itself)"
