"""Softmax and its logarithm."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgrad import functional as F

__all__ = ["LogSoftmax", "Softmax"]

# `dim=None` chooses a dimension by the input's rank, with a warning that is to point at the caller of the module:
# above this frame come __call__, _call_impl and forward.
_STACKLEVEL = 5


class Softmax(torch.nn.Softmax):
    """exp(input) / sum(exp(input)) along `dim`, any shape and floating-point dtype. See :class:`torch.nn.Softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=_STACKLEVEL)


class LogSoftmax(torch.nn.LogSoftmax):
    """input - logsumexp(input) along `dim`, any shape and floating-point dtype. See :class:`torch.nn.LogSoftmax`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=_STACKLEVEL)
