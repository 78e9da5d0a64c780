"""Train ordinary models on real data, natively and after fastgrad.swap, and compare: `python -m fastgrad demo`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

__all__ = ["main"]

_EXTRA = {"sklearn": "scikit-learn", "rich": "rich"}
_LARGEST_SEED = 2**32 - 1  # of NumPy


def main(argv: Sequence[str]) -> int:
    """Run the demo with these arguments; return the exit status: 0, 1 (a package is missing) or 2 (bad input)."""
    options = _parse(argv)
    try:
        return _run(options)
    except ModuleNotFoundError as error:
        package = _EXTRA.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        return _fail(f'the demo needs {package}: run  pip install "fastgrad[demo]"', 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fastgrad demo",
        description="Train on real data, natively and after fastgrad.swap, from the same seed, and compare: loss "
        "curves, accuracy or R², time per step.",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        type=Path,
        help="your own data: a CSV file, the label in the last column; labels 0 and 1: logistic regression, other "
        "numbers: linear regression",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("demo-output"), help="where plots go (default: %(default)s)"
    )
    parser.add_argument("--epochs", metavar="N", type=_positive, help="default: each task's own number")
    parser.add_argument("--seed", metavar="N", type=_seed, default=0, help="default: %(default)s")
    return parser.parse_args(argv)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _seed(text: str) -> int:
    number = _whole(text)
    if not 0 <= number <= _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"must be from 0 to {_LARGEST_SEED}, not {number}")
    return number


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fastgrad._tables import WIDTH
    from fastgrad.bench.plots import available
    from fastgrad.demo import plots, tasks
    from fastgrad.demo.csv_file import CsvError
    from fastgrad.demo.results import environment, records, result_table
    from fastgrad.demo.training import train

    try:
        chosen = tasks.builtin() if options.csv is None else [tasks.from_csv(options.csv, options.seed)]
        options.out.mkdir(parents=True, exist_ok=True)
    except CsvError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"--out {options.out}: {error.strerror}", 2)

    status = 0
    if not available():
        status = _fail('no plots without matplotlib: run  pip install "fastgrad[demo]"', 1)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(environment())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
    comparisons = []
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for task in chosen:
            epochs = options.epochs or task.epochs
            bar = progress.add_task(task.name, total=epochs)
            comparisons.append(train(task, epochs, options.seed, partial(progress.advance, bar)))
    console.print(result_table(comparisons))

    try:
        written = [options.out / "results.json"]
        written[0].write_text(json.dumps(records(comparisons), indent=1) + "\n")
        if status == 0:
            written += plots.write(comparisons, options.out)
    except OSError as error:
        return _fail(f"--out {options.out}: {error.strerror}", 2)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    return status


def _fail(message: str, status: int) -> int:
    print(f"fastgrad demo: {message}", file=sys.stderr)
    return status
