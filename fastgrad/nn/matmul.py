"""Layers that are matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad import functional as F

__all__ = ["Linear"]


class Linear(torch.nn.Linear):
    """input @ weight.T + bias: (*, in_features) to (*, out_features), any floating-point dtype.

    See :class:`torch.nn.Linear`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)
