"""Times the ops against torch's: `fastgrad bench`. The cases are in benchmarks/, installed as fastgrad.bench.cases."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]

_QUICK = 160.0  # seconds that --quick may take, with what comes after under 3 minutes


def main(argv: Sequence[str]) -> int:
    """Run the benchmarks; return 0, 1 (something could not be run, the rest was) or 2 (nothing to run)."""
    from fastgrad.bench import options as arguments

    options = arguments.parse(argv)
    try:
        return _Run(options, list(argv)).run()
    except KeyboardInterrupt:
        print("fastgrad bench: interrupted", file=sys.stderr)
        return 130


class _Run:
    def __init__(self, options: Namespace, command: list[str]) -> None:
        from rich.console import Console

        from fastgrad._tables import WIDTH

        self.options, self.command = options, command
        self.start = time.monotonic()
        self.problems: list[str] = []
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=WIDTH + 30)

    def complain(self, message: str) -> None:
        self.problems.append(message)
        print(f"fastgrad bench: {message}", file=sys.stderr)

    def run(self) -> int:
        import fastgrad
        from fastgrad.bench import machine
        from fastgrad.bench.options import choose, devices, threads
        from fastgrad.bench.run import SCHEMA, Runner, Unit

        options = self.options
        backend = options.backend or fastgrad.active_backend()
        if backend not in fastgrad.backends():
            self.complain(f"no backend {backend!r} here: {', '.join(fastgrad.backends())}")
            backend = fastgrad.active_backend()
        cases = choose(options, self.complain)
        if options.list:
            if cases:
                self._list(cases)
            return 1 if self.problems else 0
        chosen, numbers = devices(options.device, self.complain), threads(options.threads, self.complain)
        units = [Unit(case, device, n) for device in chosen for n in numbers for case in cases]
        if not units:
            self.complain("nothing to run")
            return 2
        writes = self._writable()
        if writes.get("plots"):
            units += self._series(cases, units)
        about = machine.describe(backend, self.command)
        self.console.print(f"{about['cpu']}; torch {about['torch']}; fastgrad {about['fastgrad']}, backend {backend}")
        seconds = options.seconds or (0.3 if options.quick else 1.0)
        records: list[dict[str, Any]] = []
        with Runner(backend, seconds, not options.no_compile, self.complain) as runner:
            runner.check(any(unit.device == "cpu" for unit in units))
            limits = {n: runner.limits(n) for n in dict.fromkeys(u.threads for u in units if u.device == "cpu")}
            self._measure(runner, units, records)
        self._report(records, backend)
        everything = {
            "schema": SCHEMA,
            "machine": about,
            "limits": limits,
            "results": records,
            "problems": self.problems,
        }
        self._write(everything, writes)
        return 1 if self.problems else 0

    def _measure(self, runner: Any, units: list[Any], records: list[dict[str, Any]]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Redrawn between measurements only: a thread that draws would be measured too.
        with Progress(*columns, console=self.console, auto_refresh=False) as progress:
            bar = progress.add_task("", total=len(units))
            begun = time.monotonic()
            for done, unit in enumerate(units):
                progress.update(bar, description=f"{unit.name:50.50}", refresh=True)
                if self.options.quick and done >= 5:
                    now = time.monotonic()
                    self._hurry(runner, now - self.start + (now - begun) / done * (len(units) - done))
                try:
                    records.extend(runner.measure(unit))
                except KeyboardInterrupt:
                    return self.complain(f"interrupted: {done} of {len(units)} cases are measured")
                progress.advance(bar)
            progress.update(bar, description=f"{'done':50}", refresh=True)

    def _hurry(self, runner: Any, expected: float) -> None:
        """Keeps the promise of --quick on a slow machine."""
        if expected > _QUICK:
            runner.seconds = min(runner.seconds, 0.1)
            if runner.compiled and expected > 1.3 * _QUICK:
                runner.compiled = False
                self.complain("--quick: this machine is slow, so torch.compile is left out of the rest")

    def _report(self, records: list[dict[str, Any]], backend: str) -> None:
        from fastgrad.bench import report

        records = [r for r in records if not r["series"]]
        for device, n in dict.fromkeys((r["device"], r["threads"]) for r in records):
            these = [r for r in records if (r["device"], r["threads"]) == (device, n)]
            title = f"{backend if device == 'cpu' else device}, {n} thread{'s' * (n != 1)}"
            self.console.print(report.main_table(these, title))
            self.console.print(report.means_table(these))
            self.console.print(report.below_table(these))

    def _series(self, cases: list[Any], units: list[Any]) -> list[Any]:
        """What the plots of scaling show, with size and with threads."""
        from fastgrad.bench.run import Unit

        scaling = [case for case in cases if case.scaling]
        most = len(os.sched_getaffinity(0))
        numbers = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < most] + [most]
        every = 4 if self.options.quick else 1
        series = [Unit(case.scaled(s), series="size") for case in scaling for s in case.scaling[::-every]]
        if most == 1:
            self.complain("one core: no plot of scaling with threads")
        elif not self.options.quick:
            series += [Unit(case.scaled(case.shape), "cpu", n, "threads") for case in scaling for n in numbers]
        return series if any(unit.device == "cpu" for unit in units) else []

    def _list(self, cases: list[Any]) -> None:
        from fastgrad._tables import table

        columns = ("family", "op", "shape", "dtype", "passes", "targets")
        rows = []
        for case in cases:
            targets = [f"{w}: {_targets(of_pass)}" for w in case.passes if (of_pass := case.targets_of(w))]
            rows.append(
                (case.family, case.title, case.shape_name, case.dtype_name, ", ".join(case.passes), "; ".join(targets))
            )
        self.console.print(table(columns, rows))

    def _writable(self) -> dict[str, Path]:
        """Where results go; what cannot be written is known before an hour is spent on measuring.

        No file is left behind: the hour may end before there is anything to write.
        """
        from fastgrad.bench import plots

        wanted = {what: path for what in ("json", "csv", "plots") if (path := getattr(self.options, what))}
        if "plots" in wanted and not plots.available():
            self.complain('no plots without matplotlib: run  pip install "fastgrad[bench]"')
            del wanted["plots"]
        for what, path in list(wanted.items()):
            try:
                folder = path if what == "plots" else path.parent
                folder.mkdir(parents=True, exist_ok=True)
                if what == "plots":
                    tempfile.TemporaryFile(dir=folder).close()
                else:
                    existed = path.exists()
                    path.open("a").close()
                    if not existed:
                        path.unlink()
            except OSError as error:
                self.complain(f"--{what} {path}: {error.strerror}")
                del wanted[what]
        return wanted

    def _write(self, everything: dict[str, Any], writes: dict[str, Path]) -> None:
        from fastgrad.bench import plots, report

        if "json" in writes:
            writes["json"].write_text(report.to_json(everything))
        if "csv" in writes:
            report.write_csv([r for r in everything["results"] if not r["series"]], writes["csv"])
        paths = [writes[what] for what in ("json", "csv") if what in writes]
        if "plots" in writes:
            paths += plots.write(everything, writes["plots"])
        for path in paths:
            self.console.print(f"wrote {path}", soft_wrap=True)


def _targets(targets: Any) -> str:
    return " ".join(f"{name}>={value:g}" if name in "ETC" else f"{name} {value:g}" for name, value in targets.items())
