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


def _linear(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, activation: str | None = None
) -> torch.Tensor:
    result = torch.nn.functional.linear(input, weight, bias)
    return result if activation is None else torch.empty_like(result)


for _name in ("mm", "bmm", "matmul"):
    _elementwise(_name, getattr(torch, _name))
_like("linear", _linear)
for _name in ("softmax", "log_softmax"):
    _like(_name, getattr(torch, _name))
    _like(f"{_name}_backward", getattr(torch.ops.aten, f"_{_name}_backward_data").default)
# Losses.


def _loss(name: str) -> _Op:
    op = getattr(torch.ops.aten, name).default
    return lambda input, target, *args: op(*torch.broadcast_tensors(input, target), *args)


def _weighted_loss(name: str) -> _Op:
    op = _loss(name)

    def fake(
        input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, reduction: int = 1
    ) -> torch.Tensor:
        if weight is None:
            return op(input, target, reduction)
        dtype = torch.promote_types(torch.promote_types(input.dtype, target.dtype), weight.dtype)
        return op(input.to(dtype), target.to(dtype), reduction)

    return fake


# A gradient has the strides of its tensor; where that was broadcast, it is contiguous, to be summed later.
def _loss_backward(like: int) -> _Op:
    def fake(grad_output: torch.Tensor, input: torch.Tensor, target: torch.Tensor, *args: Any) -> torch.Tensor:
        tensor = (input, target)[like]
        shape = torch.broadcast_shapes(input.shape, target.shape)
        return torch.empty_like(tensor) if tensor.shape == shape else tensor.new_empty(shape)

    return fake


_like("mse_loss", _weighted_loss("mse_loss"))
_like("l1_loss", _weighted_loss("l1_loss"))
_like("smooth_l1_loss", _loss("smooth_l1_loss"))
for _name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
    _like(_name, getattr(torch.ops.aten, _name).default)
    _like(f"{_name}_target_backward", _loss_backward(1))
for _name in (
    *("mse_loss", "l1_loss", "smooth_l1_loss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
):
    _like(f"{_name}_backward", _loss_backward(0))
