"""Losses of a difference: mse_loss, l1_loss, smooth_l1_loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from fastgrad.functional._define import define
from fastgrad.functional._reduction import MEAN, SUM, reduction_code, reduction_name

__all__ = ["l1_loss", "mse_loss", "smooth_l1_loss"]

_mse_loss = define("mse_loss", "")
_l1_loss = define("l1_loss", "")
_smooth_l1_loss = define("smooth_l1_loss", "")


def _warn_of_sizes(input: torch.Tensor, target: torch.Tensor) -> None:
    if torch.compiler.is_compiling():  # a graph has no warnings
        return
    warnings.warn(
        f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
        "This will likely lead to incorrect results due to broadcasting. "
        "Please ensure they have the same size.",
        stacklevel=3,
    )


def _weighted(
    loss: Callable[..., torch.Tensor], input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, reduction: str
) -> torch.Tensor:
    """The mean is the weighted one: the sum over that of the weights."""
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    code = reduction_code(None, None, reduction)
    if code != MEAN:
        return loss(input, target, weight, code)
    return loss(input, target, weight, SUM) / weight.sum()


def mse_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the squared error (input - target)^2, reduced. See :func:`torch.nn.functional.mse_loss`.

    Args:
        input: any shape; floating point, or integer where `target` or `weight` is floating point.
        target: broadcast with `input`; a warning says so where the shapes differ.
        size_average, reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        weight: the shape of `input`. Each error is multiplied by its weight; the mean is over the sum of weights.

    Raises:
        RuntimeError: the shapes do not broadcast.
        ValueError: an unknown `reduction`, or a `weight` of another shape.
        NotImplementedError: no argument is floating point.
    """
    if target.size() != input.size():
        _warn_of_sizes(input, target)
    if weight is not None:
        return _weighted(_mse_loss, input, target, weight, reduction_name(size_average, reduce, reduction))
    return _mse_loss(input, target, None, reduction_code(size_average, reduce, reduction))


def l1_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the absolute error abs(input - target), reduced. See :func:`torch.nn.functional.l1_loss`.

    Args:
        input: any shape; floating point, or integer where `target` or `weight` is floating point.
        target: broadcast with `input`; a warning says so where the shapes differ.
        size_average, reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        weight: the shape of `input`. Each error is multiplied by its weight; the mean is over the sum of weights.

    Raises:
        RuntimeError: the shapes do not broadcast, or `input` or `target` is bool.
        ValueError: an unknown `reduction`, or a `weight` of another shape.
        NotImplementedError: no argument is floating point.
    """
    if target.size() != input.size():
        _warn_of_sizes(input, target)
    if weight is not None:
        return _weighted(_l1_loss, input, target, weight, reduction_name(size_average, reduce, reduction))
    return _l1_loss(input, target, None, reduction_code(size_average, reduce, reduction))


def smooth_l1_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> torch.Tensor:
    """Return d^2 / (2 beta) where d = abs(input - target) is below beta, and d - beta / 2 elsewhere, reduced.

    See :func:`torch.nn.functional.smooth_l1_loss`; Girshick, Fast R-CNN (https://arxiv.org/abs/1504.08083).

    Args:
        input: any shape; floating point, or integer where `target` is floating point.
        target: broadcast with `input`; a warning says so where the shapes differ.
        size_average, reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        beta: where the loss turns from quadratic to linear; 0 gives :func:`l1_loss`.

    Raises:
        RuntimeError: the shapes do not broadcast, or `beta` is negative.
        ValueError: an unknown `reduction`.
        NotImplementedError: neither argument is floating point.
    """
    if target.size() != input.size():
        _warn_of_sizes(input, target)
    code = reduction_code(size_average, reduce, reduction)
    if beta == 0:
        return _l1_loss(input, target, None, code)
    return _smooth_l1_loss(input, target, code, beta)
