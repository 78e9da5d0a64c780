"""The CUDA kernels' own tests, on the emulator, without torch: under the address and the thread sanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import fastgrad

ROOT = Path(__file__).parents[1]
EMULATOR = sorted((ROOT / "csrc/emulator").glob("*.cpp"))
FLAGS = [
    *("-std=c++20", "-O1", "-g1", "-Wno-unknown-pragmas", "-pthread"),
    *("-DFASTGRAD_BACKEND_NAMESPACE=cuda_emulated", '-DFASTGRAD_BACKEND_NAME="emulated"'),
    f"-I{ROOT / 'csrc/emulator'}",
]

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(fastgrad.active_backend() != fastgrad.backends()[0], reason="once is enough"),
]


@pytest.mark.parametrize(
    ("program", "kernels", "argument", "sanitizer"),
    [
        ("reduce_test", ("reduce", "reductions"), "3000", "address,undefined"),
        ("reduce_test", ("reduce", "reductions"), "3000", "thread"),
        ("gemm_test", ("matmul",), "12", "address"),
    ],
)
def test_kernels(tmp_path: Path, program: str, kernels: tuple[str, ...], argument: str, sanitizer: str) -> None:
    sources = [ROOT / f"tests/kernels/{program}.cpp", *EMULATOR]
    for kernel in kernels:
        sources.append(tmp_path / f"{kernel}.cpp")
        sources[-1].write_text(f'#include "{ROOT / "csrc/kernels/cuda" / kernel}.cu"\n')
    command = ["g++", *FLAGS, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    subprocess.run([*command, *map(str, sources), "-o", str(tmp_path / program)], check=True)
    result = subprocess.run([str(tmp_path / program), argument], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
