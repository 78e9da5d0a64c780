"""Activations: relu, sigmoid, tanh."""

from __future__ import annotations

from fastgrad.functional._define import define

__all__ = ["relu", "relu_", "sigmoid", "sigmoid_", "tanh"]

relu = define(
    "relu",
    """
relu(input, *, out=None) -> Tensor

Return max(input, 0) elementwise; NaN stays NaN. See :func:`torch.relu`.

Args:
    input (Tensor): any shape; any real dtype but bool.
    out (Tensor, optional): where to write the result.

Raises:
    RuntimeError: `input` is bool, or the result's dtype cannot be cast to that of `out`.
""",
)

relu_ = define(
    "relu_",
    """
relu_(input) -> Tensor

In-place version of :func:`relu`.
""",
)

sigmoid = define(
    "sigmoid",
    """
sigmoid(input, *, out=None) -> Tensor

Return 1 / (1 + exp(-input)) elementwise. See :func:`torch.sigmoid`.

Args:
    input (Tensor): any shape; any real dtype. Integers and bool give the default floating-point dtype.
    out (Tensor, optional): where to write the result.

Raises:
    RuntimeError: the result's dtype cannot be cast to that of `out`.
""",
)

sigmoid_ = define(
    "sigmoid_",
    """
sigmoid_(input) -> Tensor

In-place version of :func:`sigmoid`; `input` must be floating point.
""",
)

tanh = define(
    "tanh",
    """
tanh(input, *, out=None) -> Tensor

Return the hyperbolic tangent elementwise, accurate near 0. See :func:`torch.tanh`.

Args:
    input (Tensor): any shape; any real dtype. Integers and bool give the default floating-point dtype.
    out (Tensor, optional): where to write the result.

Raises:
    RuntimeError: the result's dtype cannot be cast to that of `out`.
""",
)
