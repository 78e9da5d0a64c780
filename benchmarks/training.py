"""Whole training steps of ordinary models, swapped against native, with the same optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fastgrad
from fastgrad.bench.arguments import rand
from fastgrad.bench.case import STEP, Case, Shape

Model = Callable[[], tuple[nn.Module, nn.Module, torch.optim.Optimizer]]


class Step:
    """Forward, backward and the optimizer's step. The model is made at the first call."""

    def __init__(self, make: Model, swapped: bool) -> None:
        self.make, self.swapped = make, swapped
        self.made: tuple[nn.Module, nn.Module, torch.optim.Optimizer] | None = None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        model, criterion, optimizer = self.made or self._build(x)
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def _build(self, x: torch.Tensor) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
        model, criterion, optimizer = self.made = self.make()
        model.to(x.device)
        if self.swapped:
            fastgrad.swap(model)
            fastgrad.swap(criterion)
        return self.made


def logistic() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
    return model, nn.BCELoss(), torch.optim.SGD(model.parameters(), lr=0.1)


def classifier() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    return model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.01)


def labelled(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return rand(shape, dtype), torch.randint(2, (shape[0], 1)).to(dtype)


def classes(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return rand(shape, dtype), torch.randint(10, (shape[0],))


def case(op: str, shape: tuple[int, ...], model: Model, target: float, **settings: Any) -> Case:
    return Case(
        op=op,
        shape=shape,
        ours=Step(model, True),
        theirs=Step(model, False),
        gradients=(),
        passes=STEP,
        targets={"step": {"E": target}},
        compiled=False,
        reference=False,
        sizes=2,
        why={"step": "most of a step is Python, the dispatcher and the optimizer, the same on both sides"},
        **settings,
    )


CASES = [
    case("logistic_regression", (759, 8), logistic, 1.3, args=labelled, quick=True),
    case("classifier", (64, 784), classifier, 1.0, args=classes),
]
