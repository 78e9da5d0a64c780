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

    torch marks the tensors it makes of Python numbers; a traced graph does not keep that mark.
    """
    dtype = other.dtype
    if isinstance(number, float) and not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    elif dtype == torch.bool and not isinstance(number, bool):
        dtype = torch.int64
    if other.dim() > 0 and dtype in (torch.bfloat16, torch.float16):
        dtype = torch.float32  # rounds the number once, and promotes no further than `other`
    return torch.full((), number, dtype=dtype, device="cpu")


def _tensors(args: tuple[Any, ...]) -> tuple[Any, ...]:
    tensor = next(a for a in args if isinstance(a, torch.Tensor))
    return tuple(a if isinstance(a, torch.Tensor) else constant(a, tensor) for a in args)


def _functional(name: str) -> Callable[..., Any]:
    packet = getattr(torch.ops.fastgrad, name)
    op = packet.default
    if "out" not in packet.overloads():

        def traced(*args: Any, **kwargs: Any) -> Any:
            return op(*args, **kwargs)

        return traced

    out_op = packet.out

    def traced_elementwise(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        args = _tensors(args)
        if out is None:
            return op(*args, **kwargs)
        out_op(*args, **kwargs, out=out)
        return out

    return traced_elementwise


def _in_place(name: str) -> Callable[..., Any]:
    op = getattr(torch.ops.fastgrad, name).default

    def traced(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        op(input, *_tensors((input, *args))[1:], **kwargs)
        return input

    return traced
