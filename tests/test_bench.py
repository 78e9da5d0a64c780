"""`python -m fastgrad bench`: cases, statistics, measuring processes, results, bad arguments. No speed is asserted."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastgrad
import fastgrad.functional as F
from fastgrad.bench import case as cases
from fastgrad.bench import main, measure, plots, report
from fastgrad.bench.arguments import broadcast_rows, one, strided
from fastgrad.bench.case import FAMILIES, PASSES, Case
from fastgrad.bench.options import choose, parse
from fastgrad.bench.run import Runner, Unit
from fastgrad.bench.statistics import geometric_mean, ratios, spread
from fastgrad.bench.worker import HUGE_PAGES, PLAIN, WorkerError

ALL = list(cases.load())
SMALLEST = ["--seconds", "0.01", "--no-compile"]


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
        assert cases.find(case.key()).title == case.title
    assert sum(case.quick for case in ALL) > 20


@pytest.mark.parametrize("case", ALL, ids=lambda c: f"{c.title} {c.shape_name} {c.dtype_name}".replace(" ", "-"))
def test_both_sides_compute_the_same(case: Case) -> None:
    case = tiny(case)
    args = case.args(case.shape, case.dtype)
    for which in case.passes:
        if which == "step":
            ours, theirs = [call(*args) for _ in range(3) for call in (case.ours, case.theirs)][-2:]
            assert ours.isfinite() and theirs.isfinite()  # each model has random weights of its own
            continue
        ours, theirs = (measure._results(case, which, call, args) for call in (case.ours, case.theirs))
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            eps = torch.finfo(a.dtype).eps if a.is_floating_point() else 0
            assert (a.double() - b.double()).norm() <= 4 * eps * b.double().norm()


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


# The command.


def run(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, list[str]]:
    """Exit status, standard output, and the lines of complaint."""
    status = main(arguments)
    out, err = capfd.readouterr()
    return status, out, [line for line in err.splitlines() if line.startswith("fastgrad bench: ")]


def test_bad_values_get_one_line_each_and_the_rest_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _without("matplotlib"))
    folder = tmp_path / "results"
    (tmp_path / "file").write_text("")
    arguments = ["relu", "sigmodi", "bmm", "--shape", "20x30,0x5,ax7", "--dtype", "float32,flot32,bf16"]
    arguments += ["--threads", "1,0,9999", "--backend", "sse9", "--device", "cpu,tpu", "--out", str(folder)]
    arguments += ["--csv", str(tmp_path / "file" / "x.csv")]
    status, out, lines = run([*arguments, *SMALLEST], capfd)
    assert status == 1
    texts = [line.removeprefix("fastgrad bench: ") for line in lines if "huge pages" not in line]
    expected = ["'sse9'", "did you mean sigmoid?", "'0x5'", "'ax7'", "did you mean float32?", "bmm takes a shape of 4"]
    expected += ["matplotlib", "--csv", "'tpu'", "'0'", "9999 threads"]
    assert len(texts) == len(expected)
    for text, part in zip(texts, expected, strict=True):
        assert part in text
    assert "Geometric means" in out and "Below target" in out
    everything = json.loads((folder / "bench.json").read_text())
    assert everything["problems"] == [line.removeprefix("fastgrad bench: ") for line in lines]
    check_schema(everything)
    rows = everything["results"]
    assert {(r["op"], r["dtype"]) for r in rows} == {("relu", "float32"), ("relu", "bfloat16")}
    assert all(r["shape"] == [20, 30] for r in rows)


def _without(missing: str) -> Callable[..., Any]:
    find = importlib.util.find_spec
    return lambda name, *rest: None if name == missing else find(name, *rest)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "nothing to run"),
        (["relu", "--dtype", "complex"], "nothing to run"),
        (["relu", "--shape", "3xx"], "nothing to run"),
        (["relu", "--threads", "none"], "nothing to run"),
        (["relu", "--device", "cuda"], "nothing to run"),
    ],
)
def test_nothing_to_run(arguments: list[str], line: str, capfd: pytest.CaptureFixture[str]) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, out, lines = run(arguments, capfd)
    assert status == 2 and len(lines) == 2 and lines[-1].endswith(line)
    assert "Traceback" not in out


@pytest.mark.parametrize("arguments", (["--seconds", "0"], ["--seconds", "x"], ["--nonsense"], ["--json"]))
def test_bad_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: fastgrad bench" in capsys.readouterr().err


def test_list(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, lines = run(["softmax", "log_softmax", "--list"], capfd)
    assert status == 0 and not lines
    assert "1048576x16" in out and "sigmoid" not in out


def test_no_compiler(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    status, out, lines = run(["relu_", "sqrt", "--shape", "9", "--seconds", "0.01"], capfd)
    assert status == 1 and len([line for line in lines if "torch.compile does not work here" in line]) == 1
    assert "sqrt" in out


def test_with_torch_compile_and_plots(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["sqrt", "--shape", "300", "--seconds", "0.01", "--json", str(tmp_path / "x.json")]
    status, out, lines = run([*arguments, "--plots", str(tmp_path)], capfd)
    assert status == 0, lines
    everything = json.loads((tmp_path / "x.json").read_text())
    check_schema(everything)
    for record in everything["results"]:
        if record["variant"] == "out=":
            continue
        for kind in (PLAIN, HUGE_PAGES):
            assert set(record["seconds"][kind]) >= {"fastgrad", "torch", "compile"}
        compiled = [ratios(s["compile"]["all"], s["fastgrad"]["all"]).median for s in record["seconds"].values()]
        assert record["ratios"]["C"]["median"] == min(compiled)
    assert (tmp_path / "speedup_arithmetic.png").read_bytes().startswith(b"\x89PNG")


def check_schema(everything: dict[str, Any]) -> None:
    """What a reader of the JSON may count on."""
    assert everything["schema"] == 1
    machine = everything["machine"]
    for key in ("cpu", "cores", "caches", "torch", "fastgrad", "python", "backend", "date", "command"):
        assert machine[key], key
    assert "fastgrad bench " in machine["command"]
    for limits in everything["limits"].values():
        assert limits["copy, B/s"] > 0 and limits["read, B/s"] > 0 and limits["copy into a new tensor, B/s"] > 0
        assert fastgrad.active_backend() == "emulated" or limits["float32, flop/s"] > 0
    assert everything["results"]
    for record in everything["results"]:
        assert record["family"] in FAMILIES and record["pass"] in (*PASSES, "step")
        assert isinstance(record["op"], str) and isinstance(record["variant"], str)
        assert all(isinstance(n, int) for n in record["shape"]) and record["threads"] >= 1
        for kind in record["seconds"].values():
            for times in kind.values():
                assert len(times["all"]) == record["rounds"] >= 3
                assert 0 < times["low"] <= times["median"] <= times["high"]
        plain = record["seconds"][PLAIN]
        assert record["ratios"]["E"]["median"] == ratios(plain["torch"]["all"], plain["fastgrad"]["all"]).median
        assert {"E", "T"} <= set(record["ratios"]) <= {"E", "T", "C", "limit"}
        assert set(record["below"]) <= set(record["targets"])
        assert set(record["memory"]) in ({"fastgrad", "torch"}, set())
        assert set(record["error"]) in ({"fastgrad", "torch"}, set())


# Choosing, and the report.


def chosen(*arguments: str) -> tuple[list[Case], list[str]]:
    said: list[str] = []
    return choose(parse(arguments), said.append), said


def test_choosing() -> None:
    assert [c.title for c in chosen()[0]] == [c.title for c in ALL]
    assert {c.family for c in chosen("softmax", "cross_entropy")[0]} == {"softmax", "cross_entropy"}
    assert {c.op for c in chosen("log_softmax")[0]} == {"log_softmax"}
    quick = chosen("--quick")[0]
    assert {c.family for c in quick} == set(FAMILIES)
    assert all(c.passes == ("forward+backward",) for c in quick if c.family == "cross_entropy")
    halves, said = chosen("add", "--dtype", "half", "--shape", "6x6")
    assert {(c.dtype, c.shape) for c in halves} == {(torch.float16, (6, 6))} and not said
    assert len({c.title for c in halves}) == len(halves)
    # The targets are for the cases as they are.
    assert all(c.targets_of("forward") == {"E": 1.0, "T": 1.0, "C": 1.0} for c in halves)


def record_of(case: Case, **changes: Any) -> dict[str, Any]:
    times = {"median": 2e-3, "low": 1.9e-3, "high": 2.1e-3, "all": [2e-3]}
    kinds = {kind: dict.fromkeys(("fastgrad", "torch", "compile"), times) for kind in (PLAIN, HUGE_PAGES)}
    ratio = {"median": 1.5, "low": 1.4, "high": 1.6}
    return {
        "family": case.family,
        "op": case.op,
        "variant": case.variant,
        "shape": list(case.shape),
        "dtype": case.dtype_name,
        "pass": case.passes[0],
        "device": "cpu",
        "threads": 1,
        "series": "",
        "rounds": 1,
        "seconds": kinds,
        "ratios": {"E": ratio, "T": ratio, "C": ratio, "limit": ratio},
        "call": {"median": 2e-6, "low": 1e-6, "high": 3e-6},
        "traffic": {"read": 1e7, "written": 1e7, "flops": 1e8, "first": 100.0},
        "memory": {"fastgrad": 300, "torch": 100},
        "error": {"fastgrad": 1e-8, "torch": 2e-8},
        "targets": {},
        "below": [],
        "why": "",
    } | changes


def test_targets() -> None:
    from fastgrad.bench.run import below

    record = record_of(ALL[0])
    met = {"E": 1.5, "C": 1.2, "limit": 0.9, "call": 3e-6, "memory": 3.0}
    missed = {"E": 1.6, "C": 2.0, "limit": 1.6, "call": 1e-6, "memory": 2.9}
    assert below(record | {"targets": met}) == []
    assert below(record | {"targets": missed}) == list(missed)
    assert below(record | {"targets": {"C": 2.0}, "ratios": {}}) == []  # not measured


def test_tables() -> None:
    from fastgrad._tables import render

    rows = [record_of(ALL[0]), record_of(ALL[1], below=["E", "memory"], targets={"E": 2, "memory": 1}, why="reasons")]
    text = render(report.below_table(rows))
    assert "1 of 2" in text and "E 1.5 (>= 2)" in text and "memory 300 (<= 100)" in text and "reasons" in text
    text = render(report.main_table(rows, "avx512"))
    assert "1.50*" in text and "2 ms" in text and "150%" in text
    assert report.means(rows)["all"] == pytest.approx({"E": 1.5, "T": 1.5, "C": 1.5, "limit": 1.5, "rows": 2})
    assert report.duration(1.5e-6) == "1.5 µs" and report.duration(2e-10) == "0.2 ns"
    assert report.size(3 << 20) == "3M" and report.size(12) == "12"


def test_csv(tmp_path: Path) -> None:
    rows = [record_of(case) for case in ALL[:3]]
    report.write_csv(rows, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["op"] for row in table] == [case.op for case in ALL[:3]]
    assert table[0]["shape"] == "4096x4096" and float(table[0]["E"]) == 1.5
    assert float(table[0]["fastgrad (plain), s"]) == 2e-3 and float(table[0]["torch's memory"]) == 100


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sigmoid = next(case for case in ALL if case.scaling and case.op == "sigmoid")
    results = [record_of(case) for case in ALL[::20]]
    results += [record_of(sigmoid, series="size", shape=[n]) for n in (64, 256)]
    results += [record_of(sigmoid, series="threads", threads=n) for n in (1, 2)]
    limits = {"1": {"copy into a new tensor, B/s": 1e10, "float32, flop/s": 1e11}}
    written = plots.write({"results": results, "limits": limits}, tmp_path)
    names = {path.name for path in written}
    assert {"roofline.png", "scaling_size.png", "scaling_threads.png", "speedup_softmax.png"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


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
