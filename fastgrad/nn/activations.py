"""Elementwise activations."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad import functional as F

__all__ = ["ReLU", "Sigmoid", "Tanh"]


class ReLU(torch.nn.ReLU):
    """max(input, 0) elementwise, any shape and real dtype; `inplace=True` overwrites the input.

    See :class:`torch.nn.ReLU`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.relu_(input) if self.inplace else F.relu(input)


class Sigmoid(torch.nn.Sigmoid):
    """1 / (1 + exp(-input)) elementwise, any shape and real dtype. See :class:`torch.nn.Sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(torch.nn.Tanh):
    """The hyperbolic tangent elementwise, any shape and real dtype. See :class:`torch.nn.Tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)
