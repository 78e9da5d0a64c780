"""How a function of `fastgrad._C` becomes a public one: docstring, and what `torch.compile` sees of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastgrad import _C

__all__ = ["define"]


def define(name: str, doc: str, traced: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return the binding `_C.<name>` with `doc` as its docstring.

    While `torch.compile` traces, the binding is replaced by `traced`, which must be built of `torch.ops.fastgrad` ops;
    by default that is the op of the same name, with `out=` and in-place overloads returning what the binding returns.
    """
    function = getattr(_C, name)
    if doc:
        torch._C._add_docstr(function, doc)
    if traced is None:
        traced = _in_place(name) if name.endswith("_") else _functional(name)
    torch.compiler.substitute_in_graph(function, skip_signature_check=True)(traced)
    return function


def constant(number: float, other: torch.Tensor) -> torch.Tensor:
    """Return the 0-d CPU tensor that, in an op with `other`, promotes as the Python number `number` does in torch.

    torch marks the tensors it makes of Python numbers; a traced graph does not keep that mark. (`ops::constant` in
    csrc/ops/tensors.cpp does the same outside of torch.compile.)
    """
    if isinstance(number, bool):
        dtype = torch.bool
    elif isinstance(number, int):
        narrow = other.dim() == 0 and not other.dtype.is_floating_point and other.dtype != torch.bool
        dtype = other.dtype if narrow else torch.int64
    elif not other.dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    else:
        dtype = other.dtype if other.dim() == 0 else torch.float64
    return torch.full((), number, dtype=dtype, device="cpu")


_OPERANDS = ("input", "other")


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make tensors of the operands that are numbers."""
    operands = [*args, *(kwargs[name] for name in _OPERANDS if name in kwargs)]
    tensor = next(a for a in operands if isinstance(a, torch.Tensor))

    def converted(a: Any) -> Any:
        return a if isinstance(a, torch.Tensor) else constant(a, tensor)

    return tuple(converted(a) for a in args), {k: converted(a) if k in _OPERANDS else a for k, a in kwargs.items()}


def _functional(name: str) -> Callable[..., Any]:
    packet = getattr(torch.ops.fastgrad, name)
    op = packet.default
    if "out" not in packet.overloads():

        def traced(*args: Any, **kwargs: Any) -> Any:
            return op(*args, **kwargs)

        return traced

    out_op = packet.out

    def traced_elementwise(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        args, kwargs = _tensors(args, kwargs)
        if out is None:
            return op(*args, **kwargs)
        out_op(*args, **kwargs, out=out)
        return out

    return traced_elementwise


def _in_place(name: str) -> Callable[..., Any]:
    op = getattr(torch.ops.fastgrad, name).default

    def traced(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        args, kwargs = _tensors((input, *args), kwargs)
        op(*args, **kwargs)
        return input

    return traced
