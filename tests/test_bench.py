"""fastgrad.bench: statistics, cases, measuring. No speed is asserted. test_bench_command.py tests the command."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import fastgrad
import fastgrad.functional as F
from fastgrad.bench import case as cases
from fastgrad.bench import measure
from fastgrad.bench.arguments import broadcast_rows, one, strided
from fastgrad.bench.case import FAMILIES, PASSES, Case
from fastgrad.bench.run import Runner, Unit
from fastgrad.bench.statistics import geometric_mean, ratios, spread
from fastgrad.bench.worker import HUGE_PAGES, PLAIN, Worker, WorkerError

pytestmark = pytest.mark.cpu
ALL = list(cases.load())


def tiny(case: Case) -> Case:
    """The same case on few elements."""
    if case.family == "training":
        return case.with_((16, case.shape[1]), case.dtype)
    return case.with_(tuple(min(n, 12 + i) for i, n in enumerate(case.shape)), case.dtype)


# Statistics.


def test_spread() -> None:
    assert spread([7.0]) == spread([7.0, 7.0])
    s = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (s.low, s.median, s.high) == (2, 3, 4)
    assert s.record() == {"median": 3, "low": 2, "high": 4}


def test_ratios_are_taken_round_by_round() -> None:
    # A machine that is ten times slower in one round: the ratio does not notice.
    assert ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]).record() == {"median": 2, "low": 2, "high": 2}
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def test_geometric_mean() -> None:
    assert geometric_mean([2, 8]) == pytest.approx(4)
    assert geometric_mean([0.5, 2]) == pytest.approx(1)


# Cases.


def test_every_op_has_a_case() -> None:
    ops = {case.op for case in ALL}
    public = {name for family in FAMILIES[:-1] for name in _public(family)}
    # An op's in-place or matrix-only form runs on the same kernel as the op.
    assert public - ops <= {"mm", "sigmoid_"}
    assert {case.family for case in ALL} == set(FAMILIES)


def _public(family: str) -> list[str]:
    return importlib.import_module(f"fastgrad.functional.{family}").__all__


def test_cases_are_well_formed() -> None:
    seen = set()
    for case in ALL:
        key = (case.title, case.shape, case.dtype)
        assert key not in seen
        seen.add(key)
        assert case.passes and set(case.passes) <= {*PASSES, "step"}
        assert set(case.targets) <= {*PASSES, "step"}, key
        for which in case.passes:
            assert set(case.targets_of(which)) <= {"E", "T", "C", "limit", "call", "memory"}, key
        assert len(case.shape) == case.sizes or case.sizes is None
        assert all(case.sizes in (None, len(shape)) for shape in case.scaling)
        assert all(case.dim < len(shape) for shape in (case.shape, *case.scaling))
        assert cases.find(case.key()).title == case.title
    assert sum(case.quick for case in ALL) > 20


@pytest.mark.parametrize("case", ALL, ids=lambda c: f"{c.title} {c.shape_name} {c.dtype_name}".replace(" ", "-"))
def test_both_sides_compute_the_same(case: Case) -> None:
    """Results of the same shapes and dtypes, and, in float64, the same values but for the order of additions."""
    case = tiny(case)
    exact = case.dtype.is_floating_point and case.family != "training"  # models have parameters of their own
    for dtype in dict.fromkeys((case.dtype, torch.float64 if exact else case.dtype)):
        args = case.args(case.shape, dtype)
        for which in case.passes:
            if which == "step":
                ours, theirs = [call(*args) for _ in range(3) for call in (case.ours, case.theirs)][-2:]
                assert ours.isfinite() and theirs.isfinite()  # each model has random weights of its own
                continue
            ours, theirs = (measure._results(case, which, call, args) for call in (case.ours, case.theirs))
            assert len(ours) == len(theirs) > 0
            for a, b in zip(ours, theirs, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
                if dtype == torch.float64 or not dtype.is_floating_point:
                    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_integers_have_forward_passes_only() -> None:
    assert one_case("relu").with_((8, 8), torch.int32).passes == ("forward",)
    assert one_case("relu", passes=("forward+backward",)).with_((8, 8), torch.int32).passes == ("forward",)
    assert one_case("relu").with_((8, 8), torch.bfloat16).passes == PASSES


# Measuring, in this process.


def session(case: Case, **settings: Any) -> measure.Session:
    return measure.Session(case, "cpu", 1, settings.get("compiled", False), settings.get("limit", False))


def one_case(op: str, args: Any = None, **settings: Any) -> Case:
    defaults: dict[str, Any] = {"shape": (64, 50), "args": args or one(), "passes": PASSES, **cases.both(op)}
    return Case(op=op, **defaults | settings)


def test_traffic() -> None:
    n = 64 * 50 * 4
    traffic = session(one_case("relu", flops=math.prod)).traffic
    assert traffic["forward"] == {"read": n, "written": n, "flops": 3200, "first": n}
    assert traffic["backward"] == {"read": 2 * n, "written": n, "flops": 3200, "first": n}
    assert traffic["forward+backward"] == {"read": 3 * n, "written": 2 * n, "flops": 6400, "first": n}
    # What lies between the elements is read with them, a broadcast row once; a sum's gradient is one number.
    assert session(one_case("relu", strided)).traffic["forward"]["read"] == 2 * n
    assert session(one_case("mul", broadcast_rows)).traffic["forward"]["read"] == n + 200
    of_sum = session(one_case("sum")).traffic["backward"]
    assert of_sum["read"] == n and of_sum["written"] == 4
    loss = one_case("sum", loss=True)
    assert session(loss).traffic["forward+backward"]["read"] == n
    in_place = one_case("relu_", out=True, passes=("forward",))
    assert session(in_place).traffic["forward"] == {"read": n, "written": n, "flops": 0, "first": n}
    into = next(case for case in ALL if case.title == "exp out=")
    assert session(into.with_((64, 50), into.dtype)).traffic["forward"]["read"] == n


def test_memory_is_the_high_water_mark() -> None:
    def with_temporary(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        del y
        return x * 2

    def two_at_once(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        return y * 2

    large = {"shape": (1 << 21,), "passes": ("forward",)}
    n = 4 << 21
    for ours, peak in ((with_temporary, n), (two_at_once, 2 * n)):
        assert session(one_case("relu", ours=ours, **large)).memory("forward")["fastgrad"] == pytest.approx(
            peak, rel=1e-3
        )
    memory = session(one_case("relu", shape=(1 << 21,))).memory("forward+backward")
    assert memory == {"fastgrad": 3 * n, "torch": 3 * n}  # the result, its gradient, the input's gradient


def test_errors_are_relative_to_float64() -> None:
    wrong = session(one_case("relu", ours=lambda x: torch.relu(x) * 1.5)).errors("forward")
    assert wrong["fastgrad"] == pytest.approx(0.5) and wrong["torch"] == 0
    gradients = session(one_case("exp", dtype=torch.bfloat16)).errors("forward+backward")
    assert 1e-4 < gradients["torch"] < 1e-2 and 1e-4 < gradients["fastgrad"] < 1e-2
    assert session(one_case("exp", dtype=torch.float64)).errors("forward") == {}


def test_what_takes_torch_too_long_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PATIENCE", 0.0)
    with pytest.raises(TimeoutError, match="not measured, since a call of torch takes 0 s"):
        session(one_case("exp"))


def test_a_round_times_every_contender() -> None:
    prepared = session(one_case("relu", shape=(256, 256)), limit=True)
    for which in PASSES:
        seconds = prepared.round(which)
        assert set(seconds) == {"fastgrad", "torch", "limit", "spent"}
        assert all(0 < s < 60 for s in seconds.values())


# Measuring processes.


def test_measuring_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has huge pages, a case that fails does not stop the others, and a process that dies is replaced."""
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # the user's own setting must not reach the plain one
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    said: list[str] = []
    good = Unit(tiny(next(case for case in ALL if case.op == "relu")))
    bad = Unit(good.case.with_((1 << 50,), torch.float32))
    with Runner(fastgrad.active_backend(), 0.01, False, said.append) as runner:
        assert runner.worker(HUGE_PAGES).call("huge_pages") is ("[never]" not in enabled)
        assert runner.worker(PLAIN).call("huge_pages") is ("[always]" in enabled)
        assert list(runner.measure(bad)) == [] and len(said) == 1 and "relu" in said[0] and "\n" not in said[0]
        assert [r["pass"] for r in runner.measure(good)] == list(PASSES)
        runner.workers[PLAIN]._process.kill()
        runner.workers[PLAIN]._process.join()
        assert [r["pass"] for r in runner.measure(good)] == list(PASSES)
        worker = runner.worker(PLAIN)
        worker._process.kill()
        with pytest.raises(WorkerError, match="ended"):
            worker.call("huge_pages")
    assert len(said) == 1


def test_interrupts_are_for_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    """A process outlives Ctrl-C, from its start on, and ends quietly when the command does, in the middle of a call."""
    before = signal.getsignal(signal.SIGINT)
    worker = Worker(PLAIN, fastgrad.active_backend())
    assert signal.getsignal(signal.SIGINT) is before
    os.kill(worker._process.pid or 0, signal.SIGINT)
    worker.call("instructions")
    worker._connection.send(("instructions", ()))
    worker.close()
    assert worker._process.exitcode == 0
    assert capfd.readouterr().err == ""


def test_unknown_limits() -> None:
    class Failing:
        def call(self, *_: object) -> None:
            raise WorkerError("ValueError: no")

    said: list[str] = []
    runner = Runner("default", 1.0, False, said.append)
    runner.worker = lambda kind: Failing()  # type: ignore[assignment, method-assign, return-value]
    assert runner.limits(1) == {} and said == ["the machine's limits are unknown (ValueError: no)"]


def test_rounds_without_end_of_time() -> None:
    class Instant:
        def call(self, method: str, *_: object) -> dict[str, float]:
            return {"fastgrad": 1.0, "torch": 1.0, "spent": 1e-3} if method == "round" else {}

    runner = Runner("default", 1e308, False, print)
    runner.worker = lambda kind: Instant()  # type: ignore[assignment, method-assign, return-value]
    assert runner._pass(Unit(one_case("relu")), "forward", [PLAIN], {})["rounds"] == 40


@pytest.mark.skipif(fastgrad.active_backend() not in ("avx2", "default"), reason="torch is held to no less")
def test_one_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither torch nor its compiler has a better one than the backend."""
    backend = fastgrad.active_backend()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    worker = Worker(PLAIN, backend)
    native, compiled = worker.call("instructions")
    assert native.lower() == backend
    assert compiled.startswith({"default": "INVALID"}.get(backend, backend))
    worker.close()
    assert os.environ["ATEN_CPU_CAPABILITY"] == "avx512"


# The machine's limits.


def test_multiply_adds() -> None:
    from fastgrad import _C

    emulated = fastgrad.active_backend() == "emulated"
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert _C.multiply_adds(dtype, 1e6) == pytest.approx(0 if emulated else 1e6, rel=0.05)


def test_an_empty_output_is_writable() -> None:
    from fastgrad import _C

    for n in (0, 1, 5 << 20):
        tensor = _C.empty_output(n).fill_(3)
        assert tensor.dtype == torch.uint8 and tensor.shape == (n,) and bool((tensor == 3).all())
    assert F.relu(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]
