"""`python -m fastgrad`: info, dispatch to demo and bench, bad arguments."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import fastgrad
from fastgrad.__main__ import info, main

pytestmark = pytest.mark.cpu


def test_info_in_a_process_of_its_own(tmp_path: Path) -> None:
    # A fresh process: this one may have loaded scikit-learn, which brings an OpenMP runtime of its own.
    command = [sys.executable, "-m", "fastgrad", "info"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    facts = {line[:15].strip(): line[15:].strip() for line in result.stdout.splitlines()}
    assert facts["fastgrad"] == fastgrad.__version__
    assert facts["torch"].startswith(torch.__version__)
    assert facts["active backend"] == fastgrad.active_backend()
    assert facts["backends"].startswith(" ".join(fastgrad.backends()))
    assert facts["threads"] == "1"
    assert set(facts) >= {"python", "build", "cpu", "CUDA built", "CUDA available"}
    assert "more than one" not in facts["OpenMP"]
    assert facts["OpenMP"].endswith((".so", ".so.1")) or "libgomp" in facts["OpenMP"]


def test_info_follows_a_forced_backend() -> None:
    with fastgrad.backend("default"):
        assert "active backend  default" in info()


def test_unknown_backend_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown() -> str:
        raise ValueError('fastgrad: no backend "foo" on this machine; there are: default')

    monkeypatch.setattr(fastgrad, "active_backend", unknown)
    assert 'active backend  none: no backend "foo" on this machine' in info()
    for command in ("demo", "bench"):
        assert main([command]) == 2
        expected = f'fastgrad {command}: no backend "foo" on this machine; there are: default\n'
        assert capsys.readouterr() == ("", expected)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"fastgrad {fastgrad.__version__}\n"


@pytest.mark.parametrize("command", ("demo", "bench"))
def test_dispatch_passes_arguments_on(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    module = types.ModuleType(f"fastgrad.{command}")
    module.main = lambda argv: seen.append(list(argv)) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"fastgrad.{command}", module)
    monkeypatch.setattr(fastgrad, command, module, raising=False)
    assert main([command, "--seed", "3", "-h", "x"]) == 7
    assert seen == [["--seed", "3", "-h", "x"]]


@pytest.mark.parametrize("arguments", ([], ["nonsense"], ["info", "--more"]))
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: fastgrad" in capsys.readouterr().err
