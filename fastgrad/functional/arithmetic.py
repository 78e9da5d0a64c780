"""Arithmetic, comparisons and elementary functions, with torch's broadcasting and type promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastgrad.functional._define import define, functional

__all__ = [
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "pow"),
    *("eq", "ne", "lt", "le", "gt", "ge", "neg", "abs", "sqrt", "exp", "log"),
]

_TWO_OPERANDS = """
Args:
    input (Tensor or Number): any real dtype.
    other (Tensor or Number): broadcast against `input`; see torch's broadcasting and type promotion rules.
    out (Tensor, optional): where to write the result.

Raises:
    RuntimeError: the shapes do not broadcast, or the result's dtype cannot be cast to that of `out`.
"""
_ONE_OPERAND = """
Args:
    input (Tensor): any shape; any real dtype.
    out (Tensor, optional): where to write the result.

Raises:
    RuntimeError: the result's dtype cannot be cast to that of `out`.
"""


def _binary(name: str, formula: str, keywords: str = "", traced: Callable[..., Any] | None = None) -> Any:
    return define(
        name,
        f"\n{name}(input, other, *, {keywords}out=None) -> Tensor\n\nReturn {formula} elementwise. "
        f"See :func:`torch.{name}`.\n{_TWO_OPERANDS}",
        traced,
    )


def _unary(name: str, formula: str) -> Any:
    return define(
        name,
        f"\n{name}(input, *, out=None) -> Tensor\n\nReturn {formula} elementwise. See :func:`torch.{name}`.\n"
        f"{_ONE_OPERAND}",
    )


def _in_place(name: str, keywords: str = "") -> Any:
    return define(f"{name}_", f"\n{name}_(input, other{keywords}) -> Tensor\n\nIn-place version of :func:`{name}`.\n")


add = _binary("add", "input + alpha * other", "alpha=1, ")
add_ = _in_place("add", ", *, alpha=1")
sub = _binary("sub", "input - alpha * other", "alpha=1, ")
sub_ = _in_place("sub", ", *, alpha=1")
mul = _binary("mul", "input * other")
mul_ = _in_place("mul")

_pow_op = functional("pow")


def _traced_pow(input: Any, other: Any, **kwargs: Any) -> Any:
    # A graph does not know that the exponent was a number, whose sign only then is looked at.
    if isinstance(other, int) and other < 0 and isinstance(input, torch.Tensor) and not input.is_floating_point():
        raise RuntimeError("Integers to negative integer powers are not allowed.")
    return _pow_op(input, other, **kwargs)


pow = _binary("pow", "input to the power of other", traced=_traced_pow)

eq = _binary("eq", "input == other (as bool)")
ne = _binary("ne", "input != other (as bool)")
lt = _binary("lt", "input < other (as bool)")
le = _binary("le", "input <= other (as bool)")
gt = _binary("gt", "input > other (as bool)")
ge = _binary("ge", "input >= other (as bool)")

neg = _unary("neg", "-input")
abs = _unary("abs", "the absolute value of input")
sqrt = _unary("sqrt", "the square root of input")
exp = _unary("exp", "e to the power of input")
log = _unary("log", "the natural logarithm of input")

_div = {mode: define(name, "") for mode, name in ((None, "div"), ("floor", "div_floor"), ("trunc", "div_trunc"))}
_div_ = {mode: define(name, "") for mode, name in ((None, "div_"), ("floor", "div_floor_"), ("trunc", "div_trunc_"))}


def _rounded(table: dict[str | None, Any], rounding_mode: str | None) -> Any:
    if rounding_mode not in table:
        raise RuntimeError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'"
        )
    return table[rounding_mode]


def div(
    input: torch.Tensor | float,
    other: torch.Tensor | float,
    *,
    rounding_mode: str | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return input / other elementwise. See :func:`torch.div`.

    Args:
        input: any real dtype.
        other: broadcast against `input`.
        rounding_mode: None for true division (integers give the default floating-point dtype), "trunc" to round to
            zero, "floor" to round down.
        out: where to write the result.

    Raises:
        RuntimeError: the shapes do not broadcast, the result's dtype cannot be cast to that of `out`, `rounding_mode`
            is another string, or an integer is divided by zero with rounding (ZeroDivisionError).
    """
    return _rounded(_div, rounding_mode)(input, other, out=out)


def div_(input: torch.Tensor, other: torch.Tensor | float, *, rounding_mode: str | None = None) -> torch.Tensor:
    """In-place version of :func:`div`."""
    return _rounded(_div_, rounding_mode)(input, other)
