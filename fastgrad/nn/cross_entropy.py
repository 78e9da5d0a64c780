"""Cross-entropy of logits, and the negative log-likelihood of log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad import functional as F

__all__ = ["CrossEntropyLoss", "NLLLoss"]


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Cross-entropy of softmax(input) against class indices or probabilities.

    `input` is (C), (N, C) or (N, C, d1, ...), floating point; `target` is int64 without the class dimension, or
    probabilities of input's shape. See :class:`torch.nn.CrossEntropyLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(torch.nn.NLLLoss):
    """-weight[target] * input[target], reduced; `input` holds log-probabilities.

    `input` is (C), (N, C) or (N, C, d1, ...), floating point; `target` is int64 without the class dimension.
    See :class:`torch.nn.NLLLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)
