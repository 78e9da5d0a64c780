"""Runs cases in the measuring processes, round by round, and makes the records."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastgrad.bench.case import Case
from fastgrad.bench.statistics import Spread, ratios, spread
from fastgrad.bench.worker import HUGE_PAGES, PLAIN, Worker, WorkerError

__all__ = ["Runner", "Unit"]

_FEWEST, _MOST = 5, 40  # rounds; fewer only where a pass takes many times its share
SCHEMA = 1

Record = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """A case on a device with a number of threads: what is measured in one go."""

    case: Case
    device: str = "cpu"
    threads: int = 1
    series: str = ""  # "size" or "threads": measured for a plot, no row of the table

    @property
    def name(self) -> str:
        where = "" if self.device == "cpu" else f" {self.device}"
        if self.threads > 1:
            where += f" {self.threads} threads"
        return f"{self.case.title} {self.case.shape_name} {self.case.dtype_name}{where}"


class Runner:
    """The measuring processes, kept for all cases; one that dies is replaced."""

    def __init__(self, backend: str, seconds: float, compiled: bool, complain: Callable[[str], None]) -> None:
        self.backend, self.seconds, self.compiled, self.complain = backend, seconds, compiled, complain
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self.workers.values():
            worker.close(0.0 if kind else 5.0)  # who interrupts does not wait for a call

    def worker(self, kind: str) -> Worker:
        if kind not in self.workers or not self.workers[kind].alive():
            self.workers[kind] = Worker(kind, self.backend)
        return self.workers[kind]

    def check(self, cpu: bool) -> None:
        """Leaves torch.compile out where it does not work, and says so; says also where T would mean nothing."""
        if self.compiled:
            try:
                self.worker(PLAIN).call("compiles")
            except WorkerError as error:
                self.compiled = False
                self.complain(f"torch.compile does not work here, column C stays empty ({error})")
        try:
            if cpu and not self.worker(HUGE_PAGES).call("huge_pages"):
                self.complain("torch gets no transparent huge pages on this machine: column T is another column E")
        except WorkerError as error:
            self.complain(f"whether torch gets transparent huge pages is unknown ({error})")

    def limits(self, threads: int) -> dict[str, float]:
        """What the machine can do at best; nothing where that cannot be measured."""
        try:
            return self.worker(HUGE_PAGES).call("limits", threads)
        except WorkerError as error:
            self.complain(f"the machine's limits are unknown ({error})")
            return {}

    def measure(self, unit: Unit) -> Iterator[Record]:
        """One record for each pass of a case; a case that fails is complained of."""
        case = unit.case
        kinds = [PLAIN, HUGE_PAGES] if unit.device == "cpu" else [PLAIN]
        compiled = self.compiled and not unit.series
        seed = random.randrange(2**31)
        try:
            for kind in kinds:
                limit = kind == kinds[-1]
                opened = self.worker(kind).call("open", case.key(), unit.device, unit.threads, compiled, limit, seed)
                for problem in opened["problems"] if kind == PLAIN else ():
                    self.complain(f"{unit.name}: {problem}")
            for which in case.passes:
                yield self._pass(unit, which, kinds, opened["traffic"][which])
        except WorkerError as error:
            self.complain(f"{unit.name}: {error}")

    def _pass(self, unit: Unit, which: str, kinds: list[str], traffic: dict[str, float]) -> Record:
        times: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
        rounds, most, spent = 0, _MOST, 0.0
        while rounds < most:
            for kind in random.sample(kinds, len(kinds)):
                answer = self.worker(kind).call("round", which)
                spent += answer.pop("spent")
                for name, seconds in answer.items():
                    times[kind].setdefault(name, []).append(float(f"{seconds:.5g}"))
            rounds += 1
            most = max(_FEWEST if spent < 5 * self.seconds else 3, int(min(_MOST, self.seconds / spent * rounds)))
        memory, errors = {}, {}
        if not unit.series:
            last = self.worker(kinds[-1])
            memory, errors = last.call("memory", which), last.call("errors", which)
        case = unit.case
        record: Record = {
            "family": case.family,
            "op": case.op,
            "variant": case.variant,
            "shape": list(case.shape),
            "dtype": case.dtype_name,
            "pass": which,
            "device": unit.device,
            "threads": unit.threads,
            "series": unit.series,
            "rounds": rounds,
            "seconds": {
                kind: {name: {**spread(t).record(), "all": t} for name, t in measured.items()}
                for kind, measured in times.items()
            },
            "ratios": {name: value.record() for name, value in _ratios(times).items()},
            "call": _extra(times[PLAIN]).record(),
            "traffic": traffic,
            "memory": memory,
            "error": errors,
            "targets": dict(case.targets_of(which)),
            "why": case.why.get(which, ""),
        }
        record["below"] = below(record)
        return record


def _extra(times: dict[str, list[float]]) -> Spread:
    """Seconds by which our call is longer than torch's."""
    return spread([a - b for a, b in zip(times["fastgrad"], times["torch"], strict=True)])


def _ratios(times: dict[str, dict[str, list[float]]]) -> dict[str, Spread]:
    """E, T, C and limit; each from rounds of one process."""
    plain, huge = times[PLAIN], times.get(HUGE_PAGES)
    result = {"E": ratios(plain["torch"], plain["fastgrad"])}
    if huge:
        result["T"] = ratios(huge["torch"], huge["fastgrad"])
    compiled = [ratios(t["compile"], t["fastgrad"]) for t in times.values() if "compile" in t]
    if compiled:
        result["C"] = min(compiled, key=lambda s: s.median)
    for measured in times.values():
        if "limit" in measured:
            result["limit"] = ratios(measured["limit"], measured["fastgrad"])
    return result


def below(record: Record) -> list[str]:
    """The targets that a record misses."""
    missed = []
    for name, target in record["targets"].items():
        if name == "call":
            if record["call"]["median"] > target:
                missed.append(name)
        elif name == "memory":
            if record["memory"] and record["memory"]["fastgrad"] > target * record["traffic"]["first"]:
                missed.append(name)
        elif name in record["ratios"] and record["ratios"][name]["median"] < target:
            missed.append(name)
    return missed
