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


_like("pow_base_backward", lambda grad, input, other: grad + input + other)
_like("pow_exponent_backward", lambda grad, input, other, output: grad + input + other + output)

for _name in ("mm", "bmm", "matmul"):
    _elementwise(_name, getattr(torch, _name))
_like("linear", _linear)


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


# torch's own fake kernel has other strides than its real one: those of `input`.
def _binary_cross_entropy(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, reduction: int = 1
) -> torch.Tensor:
    return torch.empty_like(input) if reduction == 0 else input.new_empty(())


_like("binary_cross_entropy", _binary_cross_entropy)
_like("binary_cross_entropy_with_logits", torch.ops.aten.binary_cross_entropy_with_logits.default)
for _name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
    _like(f"{_name}_target_backward", _loss_backward(1))
for _name in (
    *("mse_loss", "l1_loss", "smooth_l1_loss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
):
    _like(f"{_name}_backward", _loss_backward(0))


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
_like("sum_product", lambda self, other, dim: (self * other).sum(dim, keepdim=True))
_like("max_backward", lambda grad, input, value, dim, nan_equal: torch.empty_like(input))
_like("prod_backward", lambda grad, input, dim: torch.empty_like(input))
_like("var_backward", lambda grad, input, mean, factor: grad * (input - mean))
_like("maximum_backward", lambda grad, input, other: grad + input + other)
_like("logsumexp_backward", lambda grad, input, output: grad * (input - output))


def _max_dim_backward(grad: torch.Tensor, indices: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    shape = list(indices.shape)
    if shape:
        shape[dim] = size
    return grad.new_empty(shape)


_like("max_dim_backward", _max_dim_backward)


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
