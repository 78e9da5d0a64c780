"""Softmax and log-softmax along a dimension."""

from __future__ import annotations

import warnings

import torch

from fastgrad.functional._define import define

__all__ = ["log_softmax", "softmax"]

_softmax = define("softmax", "")
_log_softmax = define("log_softmax", "")


def _implicit_dim(name: str, ndim: int, stacklevel: int) -> int:
    # torch's rule, and its warning, which no graph has.
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated. "
            "Change the call to include dim=X as an argument.",
            stacklevel=stacklevel,
        )
    return 0 if ndim in (0, 1, 3) else 1


def softmax(
    input: torch.Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return exp(x - max x) / sum(exp(x - max x)) along `dim`. See :func:`torch.nn.functional.softmax`.

    Args:
        input: any shape; float32, float64, bfloat16 or float16, or any real dtype with `dtype`.
        dim: along which the result sums to 1. None is torch's deprecated implicit choice, with its warning.
        dtype: of the result; the conversion is part of the kernel and makes no copy.

    A row with NaN or +inf, or of -inf throughout, gives NaN. Half-precision dtypes are computed in float32.

    Raises:
        IndexError: `dim` is out of range.
        NotImplementedError: the result would not be floating point.
    """
    if dim is None:
        dim = _implicit_dim("softmax", input.dim(), _stacklevel)
    return _softmax(input, dim, dtype)


def log_softmax(
    input: torch.Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return x - max x - log(sum(exp(x - max x))) along `dim`. See :func:`torch.nn.functional.log_softmax`.

    Args:
        input: any shape; float32, float64, bfloat16 or float16, or any real dtype with `dtype`.
        dim: along which the result's exponentials sum to 1. None is torch's deprecated implicit choice.
        dtype: of the result; the conversion is part of the kernel and makes no copy.

    A row with NaN or +inf, or of -inf throughout, gives NaN. Half-precision dtypes are computed in float32.

    Raises:
        IndexError: `dim` is out of range.
        NotImplementedError: the result would not be floating point.
    """
    if dim is None:
        dim = _implicit_dim("log_softmax", input.dim(), _stacklevel)
    return _log_softmax(input, dim, dtype)
