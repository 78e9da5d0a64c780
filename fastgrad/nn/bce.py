"""Binary cross-entropy of probabilities and of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad import functional as F

__all__ = ["BCELoss", "BCEWithLogitsLoss"]


class BCELoss(torch.nn.BCELoss):
    """-weight (target log(input) + (1 - target) log(1 - input)), reduced; `input` are probabilities.

    `input` and `target` have the same shape, floating point. See :class:`torch.nn.BCELoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """Binary cross-entropy of sigmoid(input), stable for any logit and computed in one pass.

    `input` and `target` have the same shape, floating point. See :class:`torch.nn.BCEWithLogitsLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, weight=self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )
