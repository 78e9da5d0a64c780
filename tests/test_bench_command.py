"""`python -m fastgrad bench` as a command: bad arguments, the rest of the run, JSON and CSV, plots, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import once

import fastgrad
from fastgrad.bench import case as cases
from fastgrad.bench import main, plots, report
from fastgrad.bench.case import FAMILIES, PASSES, Case
from fastgrad.bench.options import choose, devices, parse, threads
from fastgrad.bench.run import below
from fastgrad.bench.statistics import ratios
from fastgrad.bench.worker import HUGE_PAGES, PLAIN

pytestmark = [pytest.mark.cpu, once]
ALL = list(cases.load())
SMALLEST = ["--seconds", "0.01", "--no-compile"]


def run(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, list[str]]:
    """Exit status, standard output, and the lines of complaint."""
    status = main(arguments)
    out, err = capfd.readouterr()
    return status, out, [line for line in err.splitlines() if line.startswith("fastgrad bench: ")]


def test_bad_values_get_one_line_each_and_the_rest_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    folder = tmp_path / "results"
    (tmp_path / "file").write_text("")
    arguments = ["relu", "sigmodi", "bmm", "--shape", "20x30,0x5,ax7", "--dtype", "float32,flot32,bf16"]
    arguments += ["--threads", "1,0,9999", "--backend", "sse9", "--device", "cpu,tpu", "--out", str(folder)]
    arguments += ["--csv", str(tmp_path / "file" / "x.csv")]
    status, out, lines = run([*arguments, *SMALLEST], capfd)
    assert status == 1
    texts = [line.removeprefix("fastgrad bench: ") for line in lines if "huge pages" not in line]
    expected = ["'sse9'", "did you mean sigmoid?", "'0x5'", "'ax7'", "did you mean float32?", "bmm takes a shape of 4"]
    expected += ["'tpu'", "--threads '0': not a positive whole number", "9999 threads", "matplotlib", "--csv"]
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
def test_nothing_to_run(arguments: list[str], line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, out, lines = run([*arguments, "--out", str(tmp_path / "out")], capfd)
    assert status == 2 and len(lines) == 2 and lines[-1].endswith(line)
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in out


@pytest.mark.parametrize(
    "arguments",
    (["--seconds", "0"], ["--seconds", "inf"], ["--seconds", "nan"], ["--seconds", "x"], ["--nonsense"], ["--json"]),
)
def test_bad_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: fastgrad bench" in capsys.readouterr().err


def test_list(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, lines = run(["softmax", "log_softmax", "--list"], capfd)
    assert status == 0 and not lines
    assert "1048576x16" in out and "sigmoid" not in out
    assert "backward: ;" not in out and "call 8e-07;" not in out
    status, out, lines = run(["rellu", "--list"], capfd)
    assert status == 1 and out == "" and len(lines) == 1 and "did you mean relu?" in lines[0]


def test_interrupted(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been measured is reported and written."""
    from fastgrad.bench.run import Runner

    measure, units = Runner.measure, []

    def once(self: Runner, unit: Any) -> Any:
        units.append(unit)
        if len(units) > 1:
            raise KeyboardInterrupt
        return measure(self, unit)

    monkeypatch.setattr(Runner, "measure", once)
    path = tmp_path / "x.json"
    status, out, lines = run(["relu", "sqrt", "--shape", "9", *SMALLEST, "--json", str(path)], capfd)
    assert status == 1 and len(units) == 2 and len(lines) == 1 and "interrupted: 1 of " in lines[0]
    everything = json.loads(path.read_text())
    assert len({r["op"] for r in everything["results"]}) == 1 and everything["problems"] == [lines[0].split(": ", 1)[1]]


def test_interrupted_before_there_is_a_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No empty file is left, and one that there was is as it was."""
    from fastgrad.bench.run import Runner

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "check", interrupt)
    (tmp_path / "x.csv").write_text("old")
    files = ["--json", str(tmp_path / "x.json"), "--csv", str(tmp_path / "x.csv")]
    status, _, lines = run(["relu", "--shape", "9", *SMALLEST, *files], capfd)
    assert status == 130 and lines == ["fastgrad bench: interrupted"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"] and (tmp_path / "x.csv").read_text() == "old"


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
        assert all(limits[f"{name}, B/s"] > 0 for name in ("copy by torch", "copy into a new tensor", "read"))
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


def test_a_case_that_is_so_by_itself_keeps_its_targets() -> None:
    native = [c for c in ALL if c.op == "softmax" and c.dtype == torch.bfloat16]
    halves = {(c.variant, c.shape): c for c in chosen("softmax", "--dtype", "bf16")[0]}
    for case in native:
        assert halves[case.variant, case.shape].targets_of("forward") == case.targets_of("forward")
    assert len(halves) > len(native)


def test_a_shape_without_the_dimension_is_said_once() -> None:
    kept, said = chosen("softmax", "cross_entropy", "--shape", "1000")
    assert {c.variant for c in kept if c.op == "softmax"} == {"dim 0"}
    ops = ("softmax", "log_softmax", "cross_entropy", "nll_loss")
    assert said == [f"{op} along dim 1 takes a shape of at least 2 sizes, not 1000" for op in ops]
    kept, said = chosen("sum", "--shape", "1000,8x9")
    assert len(said) == 1 and {len(c.shape) for c in kept if c.variant == "inner"} == {2}


def test_a_number_of_threads_is_measured_once() -> None:
    assert threads("1,1", print) == [1] and devices("cpu,cpu", print) == ["cpu"]


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
    record = record_of(ALL[0])
    met = {"E": 1.5, "C": 1.2, "limit": 0.9, "call": 3e-6, "memory": 3.0}
    missed = {"E": 1.6, "C": 2.0, "limit": 1.6, "call": 1e-6, "memory": 2.9}
    assert below(record | {"targets": met}) == []
    assert below(record | {"targets": missed}) == list(missed)
    assert below(record | {"targets": {"C": 2.0}, "ratios": {}}) == []  # not measured


def test_reasons() -> None:
    at = {"median": 0.75, "low": 0.7, "high": 0.8}
    missed = record_of(ALL[0], below=["E", "T"], targets={"E": 2.1, "T": 1.9})
    missed["ratios"] = missed["ratios"] | {"limit": at}  # 1.5 at three quarters of the limit: 2 at most
    assert report.why(missed) == "this machine's limit allows no more than E 2"
    assert report.why(missed | {"why": "known"}) == "known; this machine's limit allows no more than E 2"
    assert report.why(missed | {"ratios": {"E": at, "T": at}}) == ""
    beaten = missed["ratios"] | {"limit": at | {"median": 1.3}}  # then it was no limit
    assert report.why(missed | {"ratios": beaten}) == ""


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


def test_json() -> None:
    rows = [record_of(case) for case in ALL[:2]]
    for everything in ({"schema": 1, "machine": {"cpu": "x"}, "results": rows}, {"results": [], "schema": 1}):
        assert json.loads(report.to_json(everything)) == everything


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
    limits = {"1": {"copy into a new tensor, B/s": 1e10, "float32, flop/s": 1e11}, "2": {}}  # of 2 threads unknown
    written = plots.write({"results": results, "limits": limits}, tmp_path)
    names = {path.name for path in written}
    assert {"roofline.png", "scaling_size.png", "scaling_threads.png", "speedup_softmax.png"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
