"""The demo's results, as a table and as raw numbers."""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any

import torch

import fastgrad
from fastgrad._tables import table
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
            rows.append(
                (
                    "" if ours else task.name,
                    run.label,
                    f"{final_loss(comparison, run):.6g}",
                    f"{comparison.difference:.2g}" if ours else "",
                    f"{task.score_name} {run.scores[-1]:.4f}",
                    "{:.0f} ({:.0f} to {:.0f})".format(*(1e6 * t for t in spread(run.seconds))),
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
    """Everything the table and the plots are made of."""
    return {
        "environment": environment(),
        "tasks": [
            {
                "task": comparison.task.name,
                "epochs": comparison.epochs,
                "score": comparison.task.score_name,
                "largest difference of the losses": comparison.difference,
                **{
                    run.label: {
                        "final loss": final_loss(comparison, run),
                        "seconds a step (quartile, median, quartile)": sorted(spread(run.seconds)),
                        "losses": run.losses,
                        "scores": run.scores,
                    }
                    for run in (comparison.native, comparison.swapped)
                },
            }
            for comparison in comparisons
        ],
    }


def final_loss(comparison: Comparison, run: Run) -> float:
    """The mean loss of the last epoch's steps."""
    steps = len(run.losses) // comparison.epochs
    return sum(run.losses[-steps:]) / steps


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), low, high
