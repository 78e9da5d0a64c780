"""Loss and score of both trainings as PNG, one file a task and one with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastgrad.demo.training import Comparison

__all__ = ["write"]

_NATIVE = {"color": "#1f4e9c", "linewidth": 3.0, "alpha": 0.45}
_SWAPPED = {"color": "#c0392b", "linewidth": 1.2, "linestyle": "--"}
_MANY_STEPS = 2000  # above this, steps are too dense for a curve of each


def write(comparisons: list[Comparison], folder: Path) -> list[Path]:
    """Write the plots into `folder`; return their paths."""
    written = []
    for comparison in comparisons:
        drawings = [_loss, _score, _fit] if _has_one_feature(comparison) else [_loss, _score]
        written.append(_figure([[(draw, comparison) for draw in drawings]], folder / f"{comparison.task.stem}.png"))
    if len(comparisons) > 1:
        grid = [[(draw, comparison) for comparison in comparisons] for draw in (_loss, _score)]
        written.append(_figure(grid, folder / "overview.png"))
    return written


def _figure(grid: list[list[tuple[Any, Comparison]]], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(grid), len(grid[0])
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for row, axes in zip(grid, figure.subplots(rows, columns, squeeze=False), strict=True):
        for (draw, comparison), ax in zip(row, axes, strict=True):
            draw(ax, comparison)
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_title(comparison.task.name, fontsize=10)
            ax.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    return path


def _loss(ax: Any, comparison: Comparison) -> None:
    steps = len(comparison.native.losses)
    for run, style in ((comparison.native, _NATIVE), (comparison.swapped, _SWAPPED)):
        every = max(1, steps // _MANY_STEPS)
        ax.plot(range(0, steps, every), run.losses[::every], label=run.label, **style)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss")


def _score(ax: Any, comparison: Comparison) -> None:
    for run, style in ((comparison.native, _NATIVE), (comparison.swapped, _SWAPPED)):
        ax.plot(range(1, len(run.scores) + 1), run.scores, label=run.label, **style)
    ax.set_xlabel("epoch")
    ax.set_ylabel(comparison.task.score_name)


def _has_one_feature(comparison: Comparison) -> bool:
    inputs = comparison.task.train[0]
    return inputs.dim() == 2 and inputs.shape[1] == 1


def _fit(ax: Any, comparison: Comparison) -> None:
    """The points and the fitted curve, of the only feature there is."""
    x, y = comparison.task.train
    ax.plot(x[:, 0].numpy(), y[:, 0].numpy(), ".", color="0.6", markersize=4)
    line = torch.linspace(x.min().item(), x.max().item(), 200).view(-1, 1)
    with torch.no_grad():
        for run, style in ((comparison.native, _NATIVE), (comparison.swapped, _SWAPPED)):
            ax.plot(line[:, 0].numpy(), run.model(line)[:, 0].numpy(), label=run.label, **style)
    ax.set_xlabel("feature")
    ax.set_ylabel("label")
