"""Fake kernels: the shape, dtype and strides of each op's result, for `torch.compile` and `torch.export`.

Each op has the semantics of torch's op of the same name, so torch's own op on the fake tensors gives the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_Op = Callable[..., Any]


def _like(name: str, op: _Op) -> None:
    torch.library.register_fake(f"fastgrad::{name}")(op)


def _writes_out(op: _Op) -> _Op:
    def fake(*args: Any, out: torch.Tensor, **kwargs: Any) -> None:
        result = op(*args, **kwargs)
        if out.shape != result.shape:
            raise NotImplementedError(
                f"out= has shape {list(out.shape)} but the result has {list(result.shape)}: torch.compile does not "
                "trace a resize"
            )

    return fake


def _elementwise(name: str, op: _Op) -> None:
    _like(name, op)
    if "out" in getattr(torch.ops.fastgrad, name).overloads():
        _like(f"{name}.out", _writes_out(op))
    if hasattr(torch.ops.fastgrad, f"{name}_"):
        _like(f"{name}_", lambda *args, **kwargs: None)


def _divide(rounding_mode: str) -> _Op:
    return lambda self, other: torch.div(self, other, rounding_mode=rounding_mode)


for _name in ("add", "sub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge"):
    _elementwise(_name, getattr(torch, _name))
for _name in ("neg", "abs", "sqrt", "exp", "log", "relu", "sigmoid", "tanh"):
    _elementwise(_name, getattr(torch, _name))
_elementwise("div_floor", _divide("floor"))
_elementwise("div_trunc", _divide("trunc"))
for _name in ("relu", "sigmoid", "tanh", "abs", "sqrt"):
    _elementwise(f"{_name}_backward", torch.mul)
for _name in ("softmax", "log_softmax"):
    _like(_name, getattr(torch, _name))
    _like(
        f"{_name}_backward",
        lambda grad, output, dim, input_dtype: output.new_empty(output.shape, dtype=input_dtype),
    )


def _class_loss(input: torch.Tensor, target: torch.Tensor, reduction: int, dtype: torch.dtype | None) -> Any:
    shape = list(input.shape)
    shape.pop(0 if input.dim() == 1 else 1)
    dtype = dtype or input.dtype
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    return input.new_empty(shape if reduction == 0 else [], dtype=dtype), shape, input.new_empty([], dtype=compute)


def _cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    dtype: torch.dtype | None = None,
) -> Any:
    probabilities = target.is_floating_point()
    if probabilities and dtype is None:
        dtype = torch.promote_types(input.dtype, target.dtype)
        dtype = torch.promote_types(dtype, weight.dtype) if weight is not None else dtype
    loss, rows, total = _class_loss(input, target, reduction, dtype)
    return loss, total.new_empty([3 if probabilities else 2, *rows]), total


def _nll_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    dtype: torch.dtype | None = None,
) -> Any:
    loss, _, total = _class_loss(input, target, reduction, dtype)
    return loss, total


_like("cross_entropy", _cross_entropy)
_like("nll_loss", _nll_loss)
for _name in ("cross_entropy_backward", "nll_loss_backward"):
    _like(_name, lambda grad, input, *args: input.new_empty(input.shape))
