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


def _reduction(name: str, op: _Op) -> None:
    _like(name, op)

    def out_fake(*args: Any, **kwargs: Any) -> None:
        outs = [kwargs.pop(key) for key in ("out", "values", "indices") if key in kwargs]
        result = op(*args, **kwargs)
        for out, expected in zip(outs, [result] if isinstance(result, torch.Tensor) else result, strict=False):
            if out.shape != expected.shape:
                raise NotImplementedError(
                    f"out= has shape {list(out.shape)} but the result has {list(expected.shape)}: torch.compile does "
                    "not trace a resize"
                )

    _like(f"{name}.out", out_fake)


def _product(
    input: torch.Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    if dim is not None:
        return torch.prod(input, dim, keepdim, dtype=dtype)
    result = torch.prod(input, dtype=dtype)
    return result.reshape([1] * input.dim()) if keepdim else result


for _name in ("sum", "mean", "amax", "amin", "logsumexp", "argmax", "argmin", "max", "min"):
    _reduction(_name, getattr(torch, _name))
_reduction("prod", _product)
_reduction("max_dim", torch.max)
_reduction("min_dim", torch.min)
_reduction("var_mean", torch.var_mean)
_reduction("std_mean", torch.std_mean)
_elementwise("maximum", torch.maximum)
_elementwise("minimum", torch.minimum)
_like("max_backward", lambda grad, input, value, dim, nan_equal: torch.empty_like(input))
_like("prod_backward", lambda grad, input, dim: torch.empty_like(input))
_like("var_backward", lambda grad, input, mean, factor: grad * (input - mean))
_like("logsumexp_backward", lambda grad, input, output: grad * (input - output))


def _max_dim_backward(grad: torch.Tensor, indices: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    shape = list(indices.shape)
    if shape:
        shape[dim] = size
    return grad.new_empty(shape)


_like("max_dim_backward", _max_dim_backward)
