"""The demo: the same curves natively and swapped, its files, the user's CSV file, and what it says about bad input."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import numpy as np
from models import Ops, assert_same_curve

import fastgrad
from fastgrad import demo
from fastgrad.demo import tasks, training
from fastgrad.demo.csv_file import CsvError, read_csv

pytestmark = pytest.mark.cpu
PNG = b"\x89PNG\r\n\x1a\n"


def _csv(path: Path, labels: str) -> Path:
    x = np.random.default_rng(0).normal(size=(200, 3)).round(4)
    y = x @ [2.0, -3.0, 2.0]
    y = (y > 0).astype(int) if labels == "binary" else y.round(4)
    rows = "\n".join(",".join(map(str, (*row, label))) for row, label in zip(x.tolist(), y.tolist(), strict=True))
    path.write_text(f"a,b,c,label\n{rows}\n")
    return path


def test_all_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--out", str(tmp_path / "new" / "folder"), "--epochs", "2", "--seed", "5"]) == 0
    folder = tmp_path / "new" / "folder"
    images = {path.name for path in folder.glob("*.png")}
    assert images == {"breast_cancer.png", "regression.png", "digits.png", "overview.png"}
    for name in images:
        data = (folder / name).read_bytes()
        assert data.startswith(PNG) and len(data) > 5000
    out = capsys.readouterr().out
    for words in ("logistic regression, breast cancer", "linear regression", "MLP classifier", "test accuracy", "R²"):
        assert words in out
    assert out.count("fastgrad ") >= 3 and "\x1b[" not in out
    results = json.loads((folder / "results.json").read_text())
    assert [len(task["torch"]["losses"]) for task in results["tasks"]] == [2, 2, 46]
    for task in results["tasks"]:
        assert_same_curve(task["fastgrad"]["losses"], task["torch"]["losses"])
        assert task["largest difference of the losses"] <= 1e-5 * task["torch"]["losses"][0]


@pytest.mark.parametrize("make", [tasks.breast_cancer, tasks.regression, tasks.digits])
def test_training_runs_on_the_kernels_it_names(make: object) -> None:
    task = make()  # type: ignore[operator]
    comparison = training.train(task, 1, seed=0)
    assert len(comparison.report.swapped) >= 2
    assert {layer.reason for layer in comparison.report.left} <= {"no fastgrad layer"}
    inputs, targets = task.train[0][:8], task.train[1][:8]
    for run in (comparison.native, comparison.swapped):
        with Ops() as ops:
            run.loss(run.model(inputs), targets).backward()
        assert bool(ops.of_fastgrad()) == (run is comparison.swapped)
        assert ("linear" in ops.of_fastgrad()) == (run is comparison.swapped)


def test_seed_decides_the_curve() -> None:
    task = tasks.breast_cancer()
    first, again, other = (training.train(task, 3, seed).swapped.losses for seed in (1, 1, 2))
    assert first == again and first != other


@pytest.mark.parametrize(("labels", "score"), [("binary", "test accuracy"), ("real", "test R²")])
def test_own_csv(labels: str, score: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _csv(tmp_path / "own data.csv", labels)
    assert demo.main(["--csv", str(path), "--out", str(tmp_path / "out"), "--epochs", "300"]) == 0
    out = capsys.readouterr().out
    assert score in out and "own data.csv" in out
    task = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"][0]
    assert_same_curve(task["fastgrad"]["losses"], task["torch"]["losses"])
    assert task["fastgrad"]["scores"][-1] > 0.9
    assert (tmp_path / "out" / "own data.png").read_bytes().startswith(PNG)
    assert not (tmp_path / "out" / "overview.png").exists()


def test_csv_formats(tmp_path: Path) -> None:
    rows = [[i, i * i, i % 2] for i in range(12)]
    for name, delimiter in (("comma", ","), ("semicolon", ";"), ("tab", "\t")):
        path = tmp_path / name
        text = "\r\n\r\n".join(delimiter.join(f' "{x}"' if x == 4 else str(x) for x in row) for row in rows)
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        features, labels, names = read_csv(path)
        assert np.array_equal(features, np.array(rows)[:, :2]) and np.array_equal(labels, np.array(rows)[:, 2])
        assert names == ["column 1", "column 2", "column 3"]
    assert read_csv(_csv(tmp_path / "header", "real"))[2] == ["a", "b", "c", "label"]


GOOD = "".join(f"{i},{2 * i}\n" for i in range(12))
BAD = {
    "non-numeric": ("a,b\n1,2\n3,red\n", r'line 3, column 2 \("b"\): \'red\' is not a number'),
    "empty cell": ("1,2\n,3\n", r"line 2, column 1: the cell is empty"),
    "NaN": ("1,2\n2,nan\n", r"line 2, column 2: nan is not a finite float32 number"),
    "infinity": ("1,2\n-inf,3\n", r"line 2, column 1: -inf is not a finite"),
    "beyond float32": ("1,2\n1e39,3\n", r"line 2, column 1: 1e39 is not a finite"),
    "short row": ("1,2,3\n\n1,2\n", r"line 3: column 3 is missing"),
    "long row": ("1,2\n1,2,3\n", r"line 2: column 3 is one too many"),
    "header and number": ("a,1\n2,3\n", r"line 1, column 1: 'a' is not a number"),
    "one column": ("1\n2\n", r"line 1: 1 column, need at least 2"),
    "empty": ("", r"the file is empty"),
    "blank": ("\n \n", r"the file is empty"),
    "header alone": ("a,b\n", r"0 rows of data, need at least 10"),
    "few rows": ("1,2\n2,3\n", r"2 rows of data, need at least 10"),
    "one label": (GOOD.replace(",", ",1,").replace("\n", ",7\n"), r"column 4: every label is 7"),
    "bytes": ("\udcff\udcfe,1\n", r"not a text file in UTF-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_csv(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BAD[what]
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CsvError, match=message):
        read_csv(path)
    assert demo.main(["--csv", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastgrad demo: {path}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_file_and_folder_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--csv", str(tmp_path / "none.csv")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    assert demo.main(["--csv", str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    path = _csv(tmp_path / "good.csv", "real")
    assert demo.main(["--csv", str(path), "--out", str(tmp_path / "file" / "out"), "--epochs", "1"]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: must be at least 1, not 0"),
        (["--epochs", "x"], "--epochs: 'x' is not a whole number"),
        (["--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["--seed", "-1"], "--seed: must be from 0 to 4294967295, not -1"),
        (["--seed", "4294967296"], "--seed: must be from 0 to 4294967295, not 4294967296"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "usage: fastgrad demo" in error and message in error


def _hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", ("sklearn", "rich"))
def test_missing_package(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _hide(package, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--epochs", "1"]) == 1
    error = capsys.readouterr().err
    assert 'pip install "fastgrad[demo]"' in error and error.count("\n") == 1


@pytest.mark.parametrize("broken", (False, True))
def test_without_matplotlib_the_numbers_are_written(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _hide("matplotlib", monkeypatch)
    if broken:
        monkeypatch.delitem(sys.modules, "matplotlib")
        (tmp_path / "matplotlib.py").write_text("raise ImportError('libfreetype.so.6: cannot open')\n")
        monkeypatch.syspath_prepend(tmp_path)
    path, out = _csv(tmp_path / "own.csv", "binary"), tmp_path / "out"
    assert demo.main(["--csv", str(path), "--out", str(out), "--epochs", "1"]) == 1
    expected = 'fastgrad demo: no plots without matplotlib: run  pip install "fastgrad[demo]"\n'
    assert capsys.readouterr().err == expected
    assert [file.name for file in out.iterdir()] == ["results.json"]


@pytest.mark.parametrize("unit", (1e19, 1e-30))
def test_labels_of_any_unit(unit: float, tmp_path: Path) -> None:
    rows = [f"{i},{i % 7},{unit * (i + 3 * (i % 7))}" for i in range(60)]
    (tmp_path / "large.csv").write_text("\n".join(rows))
    task = tasks.from_csv(tmp_path / "large.csv", seed=0)
    comparison = training.train(task, 500, seed=0)
    for run in (comparison.native, comparison.swapped):
        assert run.scores[-1] > 0.9 and 0 < run.losses[-1] < run.losses[0]


def test_undefined_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = np.random.RandomState(0).permutation(20)  # as scikit-learn draws the test rows
    rows = [f"{i},{i if i in order[4:] else 5}" for i in range(20)]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    assert demo.main(["--csv", str(tmp_path / "x.csv"), "--out", str(tmp_path), "--epochs", "2"]) == 0
    assert "test R² undefined" in capsys.readouterr().out

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=no_constant)
    assert results["tasks"][0]["torch"]["scores"] == [None, None]


def test_scores() -> None:
    target = torch.tensor([[1.0], [2.0], [4.0]])
    assert tasks.r_squared(target, target) == 1.0
    assert tasks.r_squared(torch.full((3, 1), 7 / 3), target) == pytest.approx(0, abs=1e-6)
    assert math.isnan(tasks.r_squared(target, torch.full((3, 1), 0.1)))
    assert tasks.binary_accuracy(torch.tensor([0.2, 0.9, 0.6]), torch.tensor([0.0, 1.0, 0.0])) == pytest.approx(2 / 3)
    assert tasks.class_accuracy(torch.tensor([[0.1, 2.0], [3.0, 1.0]]), torch.tensor([1, 1])) == 0.5


def test_demo_is_what_the_command_line_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fastgrad.__main__ import main

    assert main(["demo", "--csv", str(tmp_path / "none.csv")]) == 2
    assert "fastgrad demo:" in capsys.readouterr().err
    assert fastgrad.active_backend() in demo.results.environment()
