"""Read a table of numbers from a CSV file, or say which line and column is wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["CsvError", "read_csv"]

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST_FILE = 10  # rows: 8 to train on, 2 to test


class CsvError(ValueError):
    """The file cannot be used. The message is one sentence with the file, and the line and column where it applies."""


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features (rows, columns - 1), labels (rows) and column names; the label is the last column.

    Cells are separated by comma, semicolon or tab, whichever the first line has. A first line without any number
    is a header. Blank lines are skipped.

    Raises:
        CsvError: the file is missing, unreadable or empty; a row is ragged; a cell is no finite number (within the
            range of float32); there are fewer than 2 columns or 10 rows; all labels are equal.
    """
    names: list[str] = []
    rows: list[list[float]] = []
    width = 0
    for line, cells in _lines(path):
        if not width:
            width = len(cells)
            if width < 2:
                raise CsvError(f"{path}, line {line}: 1 column, need at least 2 (features, then the label)")
            if not any(_is_number(cell) for cell in cells):
                names = [cell.strip() for cell in cells]
                continue
        if len(cells) != width:
            where = f"column {min(len(cells), width) + 1}"
            what = "is missing" if len(cells) < width else "is one too many"
            raise CsvError(f"{path}, line {line}: {where} {what} (rows before it have {width} columns)")
        rows.append([_number(cell, f"{path}, line {line}, column {i}", names, i) for i, cell in enumerate(cells, 1)])
    if not width:
        raise CsvError(f"{path}: the file is empty")
    if len(rows) < _SMALLEST_FILE:
        raise CsvError(f"{path}: {len(rows)} rows of data, need at least {_SMALLEST_FILE} to train and test")
    table = np.array(rows, dtype=np.float64)
    labels = table[:, -1]
    if (labels == labels[0]).all():
        raise CsvError(f"{path}, column {width}: every label is {labels[0]:g}, there is nothing to learn")
    return table[:, :-1], labels, names or [f"column {i}" for i in range(1, width + 1)]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of their last line."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            delimiter = next((mark for mark in ",;\t" if mark in first), ",")
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except OSError as error:
        raise CsvError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CsvError(f"{path}: not a text file in UTF-8") from None
    except csv.Error as error:
        raise CsvError(f"{path}, line {reader.line_num}: {error}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, where: str, names: list[str], column: int) -> float:
    name = f' ("{names[column - 1]}")' if names else ""
    if not cell.strip():
        raise CsvError(f"{where}{name}: the cell is empty")
    if not _is_number(cell):
        raise CsvError(f"{where}{name}: {cell.strip()[:40]!r} is not a number")
    value = float(cell)
    if not math.isfinite(value) or abs(value) > _LARGEST:
        raise CsvError(f"{where}{name}: {cell.strip()[:40]} is not a finite float32 number")
    return value
