"""tools/gpu_check.sh, as far as it goes without a GPU: on the CPU, at sizes that say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checks import once

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools/gpu_check.sh"

pytestmark = [pytest.mark.cpu, once]


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=600)


def test_dry_run(tmp_path: Path) -> None:
    result = gpu_check(str(tmp_path), "--dry-run")
    assert result.returncode == 0, result.stdout + result.stderr
    parts = [line.split("\t") for line in (tmp_path / "parts.tsv").read_text().splitlines()]
    assert [name for name, *_ in parts] == ["environment", "each_op", "ceilings", "bench"]
    assert all(outcome.startswith("ok") for *_, outcome in parts)

    ceilings = json.loads((tmp_path / "ceilings.json").read_text())
    assert ceilings["copy, B/s"] > 0 and ceilings["bfloat16 product, flop/s"] > 0
    bench = json.loads((tmp_path / "bench.json").read_text())
    assert bench["problems"] == [] and bench["not reached"] == []
    assert {r["op"] for r in bench["results"]} == {"relu", "matmul", "sum"}
    assert {r["dtype"] for r in bench["results"]} >= {"float32", "bfloat16", "float16"}
    for record in bench["results"]:
        assert record["seconds"]["fastgrad"]["median"] > 0 and record["seconds"]["torch"]["median"] > 0
        if record["error"] and record["dtype"] == "float32":
            assert record["error"]["fastgrad"] < 1e-5
    # The table comes last, and names what was run.
    assert result.stdout.endswith((tmp_path / "summary.txt").read_text())
    assert "Products" in result.stdout and "float16 product, flop/s" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    result = gpu_check(str(tmp_path))
    assert result.returncode == 2
    assert result.stdout == "" and result.stderr.count("\n") == 1 and "no torch with a GPU" in result.stderr


def test_wrong_arguments(tmp_path: Path) -> None:
    for arguments in [(), ("--fast", str(tmp_path))]:
        result = gpu_check(*arguments)
        assert result.returncode == 2 and "usage" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize(
    ("device", "reason"), [("cuda", "finds no GPU here"), ("nonsense", "Expected one of cpu, cuda")]
)
def test_the_suite_refuses_a_device_that_is_not_there(device: str, reason: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", str(Path(__file__)), "--device", device]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--device {device}: " in result.stderr and reason in result.stderr
