"""Reductions: sum, mean, prod, var, std, max, min, amax, amin, argmax, argmin, logsumexp, and maximum, minimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fastgrad.functional._define import define

__all__ = [
    *("sum", "mean", "prod", "var", "std", "max", "min", "amax", "amin", "argmax", "argmin", "logsumexp"),
    *("maximum", "minimum"),
]

_Dims = int | Sequence[int] | None


def _traced(name: str) -> Callable[..., Any]:
    """Return what torch.compile sees of the binding `name`: the op, or its out= overload."""
    op, out_op = (getattr(getattr(torch.ops.fastgrad, name), overload) for overload in ("default", "out"))
    second = str(op._schema.arguments[1].type) if len(op._schema.arguments) > 1 else ""
    takes_dims = second in ("List[int]", "Optional[List[int]]")
    first_of_pair = name in ("var_mean", "std_mean")

    def dims(dim: Any) -> Any:
        if dim is None and second == "List[int]":
            return []  # all, of an op that takes no None
        return [dim] if isinstance(dim, int) else dim

    def traced(input: torch.Tensor, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        if takes_dims and args:
            args = (dims(args[0]), *args[1:])
        if takes_dims and "dim" in kwargs:
            kwargs["dim"] = dims(kwargs["dim"])
        if out is None:
            result = op(input, *args, **kwargs)
            return result[0] if first_of_pair else result
        if isinstance(out, (tuple, list)):
            out_op(input, *args, **kwargs, values=out[0], indices=out[1])
        else:
            out_op(input, *args, **kwargs, out=out)
        return out

    return traced


def _define(name: str, doc: str = "") -> Any:
    return define(name, doc, _traced(name))


_DIMS = """    dim (int or tuple of ints, optional): the dimensions to reduce; all by default.
    keepdim (bool): whether the reduced dimensions stay, with size 1.
"""
_DIM = _DIMS.replace("int or tuple of ints", "int").replace("the dimensions", "the dimension")
_DTYPE = "    dtype (torch.dtype, optional): of the result; the input is cast to it first.\n"
_RAISES = """
Raises:
    IndexError: a dimension is out of range.
    RuntimeError: a dimension is named twice, or `out` has another dtype than the result.
"""


def _doc(signature: str, text: str, arguments: str, raises: str = _RAISES) -> str:
    out = "    out (Tensor, optional): where to write the result.\n"
    name = signature.split("(")[0]
    head = f"\n{signature}\n\n{text} See :func:`torch.{name}`.\n\nArgs:\n    input (Tensor): any shape.\n"
    return f"{head}{arguments}{out}{raises}"


sum = _define(
    "sum",
    _doc(
        "sum(input, dim=None, keepdim=False, *, dtype=None, out=None) -> Tensor",
        "Return the sum of the elements. Integers and bool are summed as int64. The sum of nothing is 0.",
        _DIMS + _DTYPE,
    ),
)
mean = _define(
    "mean",
    _doc(
        "mean(input, dim=None, keepdim=False, *, dtype=None, out=None) -> Tensor",
        "Return the mean of the elements; `input` or `dtype` must be floating point. The mean of nothing is NaN.",
        _DIMS + _DTYPE,
    ),
)
prod = _define(
    "prod",
    _doc(
        "prod(input, dim=None, keepdim=False, *, dtype=None, out=None) -> Tensor",
        "Return the product of the elements. Integers and bool are multiplied as int64. The product of nothing is 1. "
        "The gradient is right where elements are 0.",
        _DIM + _DTYPE,
    ),
)
_NAN = "NaN is returned if there is one."
_EMPTY = _RAISES + "    IndexError or RuntimeError: there is no element to choose from.\n"
amax, amin = (
    _define(
        name,
        _doc(
            f"{name}(input, dim=(), keepdim=False, *, out=None) -> Tensor",
            f"Return the {which} of the elements. {_NAN} Ties share the gradient evenly.",
            _DIMS,
            _EMPTY,
        ),
    )
    for name, which in (("amax", "maximum"), ("amin", "minimum"))
)
argmax, argmin = (
    _define(
        name,
        _doc(
            f"{name}(input, dim=None, keepdim=False, *, out=None) -> Tensor",
            f"Return the int64 index of the first {which}, or of the first NaN; in the flattened input if no dimension "
            "is given.",
            _DIM,
            _EMPTY,
        ),
    )
    for name, which in (("argmax", "maximum"), ("argmin", "minimum"))
)
logsumexp = _define(
    "logsumexp",
    _doc(
        "logsumexp(input, dim, keepdim=False, *, out=None) -> Tensor",
        "Return log(sum(exp(input))), computed as m + log(sum(exp(input - m))) with the maximum m, so that nothing "
        "overflows. Integers give the default floating-point dtype. That of nothing is -inf.",
        _DIMS,
    ),
)
maximum, minimum = (
    define(
        name,
        f"\n{name}(input, other, *, out=None) -> Tensor\n\nReturn the {which} of two tensors elementwise, NaN if "
        f"either is NaN. Where they are equal, each gets half of the gradient. See :func:`torch.{name}`.\n\nRaises:\n"
        "    RuntimeError: the shapes do not broadcast, or the result's dtype cannot be cast to that of `out`.\n",
    )
    for name, which in (("maximum", "larger"), ("minimum", "smaller"))
)

_full = {name: define(name, "") for name in ("max", "min")}
_with_index = {name: _define(f"{name}_dim") for name in ("max", "min")}
_elementwise = {"max": maximum, "min": minimum}
_moments = {"var": _define("var_mean"), "std": _define("std_mean")}


def _extreme(name: str, input: torch.Tensor, dim: Any, keepdim: bool, other: Any, out: Any) -> Any:
    if has_torch_function_variadic(input, dim, other):
        operands = {"other": other} if other is not None else {}
        arguments = (input,) if dim is None and not keepdim else (input, dim, keepdim)
        return handle_torch_function(globals()[name], (input, dim, other), *arguments, out=out, **operands)
    if isinstance(dim, torch.Tensor) and other is None:
        dim, other = None, dim
    if keepdim and dim is None or other is not None and dim is not None:
        raise TypeError(f"{name}() takes one of other and dim, and keepdim with dim only")
    if other is not None:
        return _elementwise[name](input, other, out=out)
    if dim is None:
        return _full[name](input, out=out)
    return getattr(torch.return_types, name)(_with_index[name](input, dim, keepdim, out=out))


def max(input: torch.Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None, out: Any = None) -> Any:
    """Return the maximum: max(input), max(input, dim, keepdim=False) or max(input, other). See :func:`torch.max`.

    Args:
        input: any shape; any real dtype.
        dim: None for the maximum of all elements (whose ties share the gradient evenly); an int for the pair (values,
            indices) of maxima along that dimension, indices being int64 and those of the first maximum, or first NaN; a
            tensor is taken as `other`.
        keepdim: whether the dimension `dim` stays, with size 1.
        other: a tensor, for the elementwise :func:`maximum` with `input`.
        out: where to write the result; for a `dim`, the pair (values, indices).

    Raises:
        IndexError: `dim` is out of range, or has size 0.
        RuntimeError: there is no element, or `out` has another dtype than the result.
    """
    return _extreme("max", input, dim, keepdim, other, out)


def min(input: torch.Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None, out: Any = None) -> Any:
    """Return the minimum: min(input), min(input, dim, keepdim=False) or min(input, other). See :func:`max`."""
    return _extreme("min", input, dim, keepdim, other, out)


def _moment(name: str, input: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any, out: Any) -> torch.Tensor:
    if has_torch_function_variadic(input):
        options = {"unbiased": unbiased, "keepdim": keepdim, "correction": correction, "out": out}
        return handle_torch_function(globals()[name], (input,), input, dim, **options)
    if isinstance(dim, bool):  # var(input, unbiased)
        dim, unbiased = None, dim
    if unbiased is not None:
        if correction is not None:
            raise TypeError(f"{name}() received both unbiased and correction")
        correction = int(unbiased)
    result: torch.Tensor = _moments[name](input, dim, correction=correction, keepdim=keepdim, out=out)
    return result


def var(
    input: torch.Tensor,
    dim: _Dims = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the variance: the squared distances from the mean, summed and divided by n - correction.

    See :func:`torch.var`. Computed by two passes over each block of elements, and the blocks merged in float64 by the
    formula of Chan, Golub and LeVeque (1979).

    Args:
        input: any shape; floating point.
        dim: the dimensions to reduce; all by default.
        unbiased: the older spelling of `correction`: True is 1, False is 0.
        keepdim: whether the reduced dimensions stay, with size 1.
        correction: 1 by default. Where it is not below n, the result is NaN or infinite, with a warning.
        out: where to write the result.

    Raises:
        IndexError: a dimension is out of range.
        RuntimeError: `input` is not floating point, or a dimension is named twice.
        TypeError: both `unbiased` and `correction` are given.
    """
    return _moment("var", input, dim, unbiased, keepdim, correction, out)


def std(
    input: torch.Tensor,
    dim: _Dims = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the standard deviation, the root of the variance; its gradient is 0 where it is 0. See :func:`var`."""
    return _moment("std", input, dim, unbiased, keepdim, correction, out)
