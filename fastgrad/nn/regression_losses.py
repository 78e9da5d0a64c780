"""Losses of regression: squared, absolute and Huber-like errors."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad import functional as F

__all__ = ["L1Loss", "MSELoss", "SmoothL1Loss"]


class MSELoss(torch.nn.MSELoss):
    """(input - target)^2, reduced; shapes broadcast, floating point. See :class:`torch.nn.MSELoss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(torch.nn.L1Loss):
    """|input - target|, reduced; shapes broadcast, floating point. See :class:`torch.nn.L1Loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(torch.nn.SmoothL1Loss):
    """The absolute error, rounded to a parabola below `beta`, reduced; shapes broadcast, floating point.

    See :class:`torch.nn.SmoothL1Loss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)
