"""The arguments `reduction`, and torch's deprecated `size_average` and `reduce`, of every loss."""

from __future__ import annotations

from torch.nn import _reduction

__all__ = ["MEAN", "NONE", "SUM", "reduction_code", "reduction_name"]

NONE, MEAN, SUM = 0, 1, 2
_CODES = {"none": NONE, "mean": MEAN, "sum": SUM}


def reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Return `reduction`, or what the deprecated arguments, where given, say instead (with torch's warning)."""
    if size_average is None and reduce is None:
        return reduction
    return _reduction.legacy_get_string(size_average, reduce)


def reduction_code(size_average: bool | None, reduce: bool | None, reduction: str) -> int:
    """Return torch's number of the reduction; ValueError for an unknown one."""
    if size_average is None and reduce is None and reduction in _CODES:
        return _CODES[reduction]
    return _reduction.get_enum(reduction_name(size_average, reduce, reduction))
