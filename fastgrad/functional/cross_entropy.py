"""Losses over classes: cross_entropy, nll_loss."""

from __future__ import annotations

import torch
from torch.nn import _reduction

from fastgrad.functional._define import define

__all__ = ["cross_entropy", "nll_loss"]

_cross_entropy = define("cross_entropy", "", traced=lambda *args: torch.ops.fastgrad.cross_entropy(*args)[0])
_nll_loss = define("nll_loss", "", traced=lambda *args: torch.ops.fastgrad.nll_loss(*args)[0])


def _reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> int:
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    return _reduction.get_enum(reduction)


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the cross-entropy of logits and target classes. See :func:`torch.nn.functional.cross_entropy`.

    One kernel forward, which reads the logits once, and one backward, which reads them once and writes their gradient.

    Args:
        input: logits of shape (C), (N, C) or (N, C, d1, ..., dK); float32, float64, bfloat16 or float16.
        target: class indices (int64 or uint8) of shape (), (N) or (N, d1, ..., dK), or class probabilities of the
            shape of `input`, which may require grad.
        weight: of each class, of shape (C) and, with indices, of the dtype of `input`.
        size_average, reduce: deprecated, as in torch.
        ignore_index: a class index that counts for nothing. The mean over no rows at all is NaN, as in torch.
        reduction: "none", "mean" or "sum".
        label_smoothing: in [0, 1], the share of the target that is spread over all classes.

    Half-precision logits are computed in float32; sums over rows are accumulated in float64.

    Raises:
        IndexError: a class index is neither in [0, C) nor `ignore_index`; the message has it and its position. On CUDA
            its row's loss and gradient are NaN instead, unless FASTGRAD_DEBUG=1.
        ValueError: the batch sizes differ, or `reduction` is another string.
        RuntimeError: another mismatch of shapes, dtypes or devices, or `label_smoothing` outside [0, 1].
        NotImplementedError: `input` is not floating point.
    """
    return _cross_entropy(
        input, target, weight, _reduction_of(size_average, reduce, reduction), ignore_index, label_smoothing
    )


def nll_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """Return the negative log-likelihood of target classes. See :func:`torch.nn.functional.nll_loss`.

    Args:
        input: log-probabilities of shape (C), (N, C) or (N, C, d1, ..., dK); float32, float64, bfloat16 or float16.
        target: class indices (int64 or uint8) of shape (), (N) or (N, d1, ..., dK).
        weight: of each class, of shape (C) and of the dtype of `input`.
        size_average, reduce: deprecated, as in torch.
        ignore_index: a class index that counts for nothing. The mean over no rows at all is NaN, as in torch.
        reduction: "none", "mean" or "sum".

    Raises:
        IndexError: a class index is neither in [0, C) nor `ignore_index`; the message has it and its position. On CUDA
            its row's loss and gradient are NaN instead, unless FASTGRAD_DEBUG=1.
        ValueError: the batch sizes differ, or `reduction` is another string.
        RuntimeError: another mismatch of shapes, dtypes or devices.
        NotImplementedError: `input` is not floating point.
    """
    return _nll_loss(input, target, weight, _reduction_of(size_average, reduce, reduction), ignore_index)
