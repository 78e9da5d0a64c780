"""Layers and losses on fastgrad's kernels, each a subclass of torch's of the same name.

Constructor, attributes, state_dict and repr (but for the class path) are torch's own; only `forward` differs. An
instance may therefore become its torch parent by assignment to `__class__`, and back: so works :func:`fastgrad.swap`.
"""

from fastgrad.nn.activations import ReLU, Sigmoid, Tanh
from fastgrad.nn.bce import BCELoss, BCEWithLogitsLoss
from fastgrad.nn.cross_entropy import CrossEntropyLoss, NLLLoss
from fastgrad.nn.matmul import Linear
from fastgrad.nn.regression_losses import L1Loss, MSELoss, SmoothL1Loss
from fastgrad.nn.softmax import LogSoftmax, Softmax

__all__: list[str] = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "L1Loss",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "NLLLoss",
    "ReLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Tanh",
]
