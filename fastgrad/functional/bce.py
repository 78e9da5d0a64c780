"""Binary cross-entropy of probabilities and of logits."""

from __future__ import annotations

import torch

from fastgrad.functional._define import define
from fastgrad.functional._reduction import reduction_code

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits"]

_binary_cross_entropy = define("binary_cross_entropy", "")
_binary_cross_entropy_with_logits = define("binary_cross_entropy_with_logits", "")


def binary_cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """Return -weight (target log(input) + (1 - target) log(1 - input)), the logarithms at least -100, reduced.

    See :func:`torch.nn.functional.binary_cross_entropy`.

    Args:
        input: probabilities, any shape; floating point.
        target: the shape and dtype of `input`, between 0 and 1; it may require grad.
        weight: broadcast to the shape of `input`; not differentiable.
        size_average, reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Raises:
        ValueError: the shapes differ, or an unknown `reduction`.
        RuntimeError: the dtypes differ, `weight` does not broadcast or requires grad, or an element of `input` or
            `target` is outside [0, 1] (on CUDA such an element gives NaN, unless FASTGRAD_DEBUG=1).
        NotImplementedError: `input` is not floating point.
    """
    code = reduction_code(size_average, reduce, reduction)
    if target.size() != input.size():
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is deprecated."
            " Please ensure they have the same size."
        )
    return _binary_cross_entropy(input, target, weight, code)


def binary_cross_entropy_with_logits(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the binary cross-entropy of sigmoid(input), computed without overflow or cancellation, reduced.

    With s the sigmoid: -weight (pos_weight target log s(input) + (1 - target) log s(-input)). See
    :func:`torch.nn.functional.binary_cross_entropy_with_logits`.

    Args:
        input: logits, any shape; floating point.
        target: the shape of `input`; floating point; it may require grad. The result has its dtype.
        weight: broadcast to the shape of `input`; not differentiable.
        size_average, reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        pos_weight: the weight of the positive class; broadcast to the shape of `input`; not differentiable.

    Raises:
        ValueError: the shapes differ, or an unknown `reduction`.
        RuntimeError: `target` is not floating point, or a weight does not broadcast or requires grad.
        NotImplementedError: `input` is not floating point.
    """
    code = reduction_code(size_average, reduce, reduction)
    if not (target.size() == input.size()):
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    return _binary_cross_entropy_with_logits(input, target, weight, pos_weight, code)
