"""The CUDA emulator keeps CUDA's promises, and catches planted mistakes: alone, or with a sanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import fastgrad

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "tests/kernels/emulator_test.cpp", *sorted((ROOT / "csrc/emulator").glob("*.cpp"))]

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(fastgrad.active_backend() != fastgrad.backends()[0], reason="once is enough"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The test program, built plainly and with each sanitizer."""
    folder = tmp_path_factory.mktemp("emulator")
    built = {}
    for sanitizer in ("none", "address", "thread"):
        program = built[sanitizer] = folder / sanitizer
        flags = [] if sanitizer == "none" else [f"-fsanitize={sanitizer}"]
        command = ["g++", "-std=c++20", "-O1", "-g", *flags, f"-I{ROOT / 'csrc/emulator'}", *map(str, SOURCES)]
        subprocess.run([*command, "-o", str(program)], check=True)
    return built


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_promises(programs: dict[str, Path], sanitizer: str) -> None:
    result = run(programs[sanitizer])
    assert result.returncode == 0 and result.stdout == "ok\n", result.stdout + result.stderr


@pytest.mark.parametrize(
    ("sanitizer", "mistake", "report"),
    [
        ("thread", "missing_barrier", "ThreadSanitizer: data race"),
        ("thread", "shuffle_as_barrier", "ThreadSanitizer: data race"),
        ("address", "out_of_bounds_read", "heap-buffer-overflow"),
        ("address", "overrun_shared", "global-buffer-overflow"),
        ("address", "overrun_dynamic", "heap-buffer-overflow"),
        ("none", "stale_lane", "a shuffle reads a lane outside its mask"),
        ("none", "returned_lane", "a thread returns while its warp waits for it"),
        ("none", "absent_lane", "the mask names a lane that is not there"),
        ("none", "divergent_barrier", "a divergent barrier"),
        ("none", "divergent_shuffle", "lanes of one mask are at different places"),
        ("none", "lonely_barrier", "wait for ever"),
        ("none", "async_not_waited", "y[5] == 1"),
    ],
)
def test_planted_mistake_is_caught(programs: dict[str, Path], sanitizer: str, mistake: str, report: str) -> None:
    result = run(programs[sanitizer], mistake)
    assert result.returncode != 0
    assert report in result.stdout + result.stderr
