"""The CUDA emulator keeps CUDA's promises, and catches planted mistakes: alone, or with a sanitizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checks import once
from programs import Programs, run

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "tests/kernels/emulator_test.cpp", *sorted((ROOT / "csrc/emulator").glob("*.cpp"))]

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    once,
]


def build(programs: Programs, sanitizer: str) -> Path:
    flags = [] if sanitizer == "none" else [f"-fsanitize={sanitizer}"]
    return programs.build(SOURCES, ["-std=c++20", "-O1", "-g", *flags, f"-I{ROOT / 'csrc/emulator'}"])


@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_promises(programs: Programs, sanitizer: str) -> None:
    result = run(build(programs, sanitizer))
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
def test_planted_mistake_is_caught(programs: Programs, sanitizer: str, mistake: str, report: str) -> None:
    result = run(build(programs, sanitizer), mistake)
    assert result.returncode != 0
    assert report in result.stdout + result.stderr
