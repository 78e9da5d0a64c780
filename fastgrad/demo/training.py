"""Train a task natively and swapped, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastgrad
from fastgrad.demo.tasks import Task

__all__ = ["Comparison", "Run", "train"]

_WARM_UP = 10  # steps, on a model that is thrown away


@dataclass
class Run:
    """One training: the model, and what it gave."""

    label: str
    model: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterable[tuple[Tensor, Tensor]]
    losses: list[float] = field(default_factory=list)  # one a step
    seconds: list[float] = field(default_factory=list)  # one a step
    scores: list[float] = field(default_factory=list)  # one an epoch

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """One step of training; timed without the loading of data."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss(self.model(inputs), targets)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())


@dataclass(frozen=True)
class Comparison:
    """A task trained twice from the same seed."""

    task: Task
    epochs: int
    native: Run
    swapped: Run
    report: fastgrad.SwapReport

    @property
    def difference(self) -> float:
        """The largest difference along the two loss curves."""
        pairs = zip(self.native.losses, self.swapped.losses, strict=True)
        return max((abs(a - b) for a, b in pairs), default=0.0)


def train(task: Task, epochs: int, seed: int, advance: Callable[[], object] = lambda: None) -> Comparison:
    """Train both; `advance` is called after each epoch.

    Epochs alternate, and so does which of the two goes first, so that both see the same state of the machine.
    """
    for swapped in (False, True):
        warm_up, _ = _start(task, seed, swapped)
        for inputs, targets in list(warm_up.batches)[:1] * _WARM_UP:
            warm_up.step(inputs, targets)
    native, _ = _start(task, seed, swapped=False)
    ours, report = _start(task, seed, swapped=True)
    for epoch in range(epochs):
        for run in (native, ours) if epoch % 2 == 0 else (ours, native):
            for inputs, targets in run.batches:
                run.step(inputs, targets)
            with torch.no_grad():
                run.scores.append(task.score(run.model(task.test[0]), task.test[1]))
        advance()
    return Comparison(task, epochs, native, ours, report)


def _start(task: Task, seed: int, swapped: bool) -> tuple[Run, fastgrad.SwapReport]:
    torch.manual_seed(seed)
    model, loss = task.model(), task.loss()
    report = fastgrad.SwapReport()
    if swapped:
        report = fastgrad.swap(nn.ModuleDict({"model": model, "loss": loss}))
    optimizer = torch.optim.SGD(model.parameters(), lr=task.lr, momentum=task.momentum)
    batches: Iterable[tuple[Tensor, Tensor]] = [task.train]
    if task.batch_size is not None:
        order = torch.Generator().manual_seed(seed)
        batches = DataLoader(TensorDataset(*task.train), batch_size=task.batch_size, shuffle=True, generator=order)
    return Run("fastgrad" if swapped else "torch", model, loss, optimizer, batches), report
