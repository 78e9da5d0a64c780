"""How a function of `fastgrad._C` becomes a public one: docstring, and what `torch.compile` sees of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch

from fastgrad import _C

__all__ = ["define", "functional"]


def define(name: str, doc: str, traced: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return the binding `_C.<name>` with `doc` as its docstring.

    While `torch.compile` traces, the binding is replaced by `traced`, which must be built of `torch.ops.fastgrad` ops;
    by default that is the op of the same name, with `out=` and in-place overloads returning what the binding returns.
    """
    function = getattr(_C, name)
    if doc:
        torch._C._add_docstr(function, doc)
    if traced is None:
        traced = _in_place(name) if name.endswith("_") else functional(name)
    torch.compiler.substitute_in_graph(function, skip_signature_check=True)(traced)
    return function


def constant(number: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return the 0-d CPU tensor that, beside a tensor of `dtype` with dimensions, promotes as the number does in torch.

    torch marks the tensors it makes of Python numbers; a traced graph does not keep that mark. (`ops::constant` in
    csrc/ops/tensors.cpp does the same outside of torch.compile.)
    """
    if isinstance(number, bool):
        return torch.full((), number, dtype=torch.bool, device="cpu")
    if isinstance(number, int | torch.SymInt):
        return torch.full((), cast(int, number), dtype=torch.int64, device="cpu")
    if isinstance(number, complex):
        raise NotImplementedError("complex numbers are not supported")
    if dtype.is_floating_point:
        return torch.full((), number, dtype=torch.float64, device="cpu")
    narrow = torch.get_default_dtype()
    if abs(number) > torch.finfo(narrow).max:
        number = math.copysign(math.inf, number)
    return torch.full((), number, dtype=narrow, device="cpu")


_OPERANDS = ("input", "other")


def _call(name: str, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return op(*args, **kwargs), where an operand may be a number."""
    operands = [*args, *(kwargs[key] for key in _OPERANDS if key in kwargs)]
    tensors = [a for a in operands if isinstance(a, torch.Tensor)]
    if len(tensors) == len(operands) or not tensors:
        return op(*args, **kwargs)
    dtype = tensors[0].dtype
    flat = tensors[0].dim() == 0 and "out" not in kwargs  # beside a tensor without dimensions the constant would count

    def operand(a: Any) -> torch.Tensor:
        if isinstance(a, torch.Tensor):
            return a.unsqueeze(0) if flat else a
        if not isinstance(a, int | float | complex | torch.SymInt | torch.SymFloat):
            raise TypeError(f"{name}(): argument must be Tensor or Number, not {type(a).__name__}")
        return constant(a, dtype)

    result = op(*map(operand, args), **{k: operand(a) if k in _OPERANDS else a for k, a in kwargs.items()})
    return result.squeeze(0) if flat and result is not None else result


def functional(name: str) -> Callable[..., Any]:
    """Return what torch.compile sees of the binding `name`: the op, with its out= overload if it has one."""
    packet = getattr(torch.ops.fastgrad, name)
    op = packet.default
    if "out" not in packet.overloads():

        def traced(*args: Any, **kwargs: Any) -> Any:
            return op(*args, **kwargs)

        return traced

    out_op = packet.out

    def traced_elementwise(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is None:
            return _call(name, op, args, kwargs)
        _call(name, out_op, args, {**kwargs, "out": out})
        return out

    return traced_elementwise


def _in_place(name: str) -> Callable[..., Any]:
    op = getattr(torch.ops.fastgrad, name).default

    def traced(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        _call(name, op, (input, *args), kwargs)
        return input

    return traced
