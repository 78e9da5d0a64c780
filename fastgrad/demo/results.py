"""The demo's results, as a table and as raw numbers."""

from __future__ import annotations

import math
from typing import Any

import torch

import fastgrad
from fastgrad._tables import table
from fastgrad.bench.statistics import spread
from fastgrad.demo.training import Comparison, Run

__all__ = ["environment", "records", "result_table"]


def environment() -> str:
    """What the times depend on, in one line."""
    threads = torch.get_num_threads()
    return (
        f"fastgrad {fastgrad.__version__}, backend {fastgrad.active_backend()}; torch {torch.__version__}; "
        f"{threads} thread{'s' * (threads != 1)}"
    )


def result_table(comparisons: list[Comparison]) -> Any:
    """Two rows a task: native torch, and the same model after the swap."""
    rows = []
    for comparison in comparisons:
        task = comparison.task
        for run in (comparison.native, comparison.swapped):
            ours = run is comparison.swapped
            seconds = spread(run.seconds)
            score = "undefined" if math.isnan(run.scores[-1]) else f"{run.scores[-1]:.4g}"
            rows.append(
                (
                    "" if ours else task.name,
                    run.label,
                    f"{final_loss(comparison, run):.6g}",
                    f"{comparison.difference:.2g}" if ours else "",
                    f"{task.score_name} {score}",
                    f"{1e6 * seconds.median:.0f} ({1e6 * seconds.low:.0f} to {1e6 * seconds.high:.0f})",
                )
            )
    columns = ("task", "layers", "final loss", "losses differ by", "score", "µs a step")
    return table(
        columns,
        rows,
        caption="losses differ by: the most at any step of the two curves. µs a step: median (quartiles).",
        right=("final loss", "losses differ by", "score", "µs a step"),
    )


def records(comparisons: list[Comparison]) -> dict[str, Any]:
    """Everything the table and the plots are made of; null for what is no finite number, which JSON has not."""
    return {
        "environment": environment(),
        "tasks": [
            {
                "task": comparison.task.name,
                "epochs": comparison.epochs,
                "score": comparison.task.score_name,
                "largest difference of the losses": _finite(comparison.difference),
                **{run.label: _record(comparison, run) for run in (comparison.native, comparison.swapped)},
            }
            for comparison in comparisons
        ],
    }


def _record(comparison: Comparison, run: Run) -> dict[str, Any]:
    seconds = spread(run.seconds)
    return {
        "final loss": _finite(final_loss(comparison, run)),
        "seconds a step (quartile, median, quartile)": [seconds.low, seconds.median, seconds.high],
        "losses": [_finite(loss) for loss in run.losses],
        "scores": [_finite(score) for score in run.scores],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def final_loss(comparison: Comparison, run: Run) -> float:
    """The mean loss of the last epoch's steps."""
    steps = len(run.losses) // comparison.epochs
    return sum(run.losses[-steps:]) / steps
