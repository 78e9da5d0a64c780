"""Medians, quartiles and geometric means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from statistics import median, quantiles

__all__ = ["Spread", "geometric_mean", "ratios", "spread"]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some measurements."""

    median: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Their time / ours, round by round: what slows a whole round down cancels."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def geometric_mean(values: Iterable[float]) -> float:
    values = list(values)
    return exp(sum(map(log, values)) / len(values))
