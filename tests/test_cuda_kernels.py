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
    *("-std=c++20", "-O1", "-g1", "-Wno-unknown-pragmas", "-Wno-psabi", "-pthread"),
    *("-DFASTGRAD_BACKEND_NAMESPACE=cuda_emulated", '-DFASTGRAD_BACKEND_NAME="emulated"'),
    f"-I{ROOT / 'csrc/emulator'}",
]

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(fastgrad.active_backend() != fastgrad.backends()[0], reason="once is enough"),
]


def build(folder: Path, program: str, kernels: tuple[str, ...], sanitizer: str) -> Path:
    sources = [ROOT / f"tests/kernels/{program}.cpp", *EMULATOR]
    for kernel in kernels:
        sources.append(folder / f"{kernel}.cpp")
        sources[-1].write_text(f'#include "{ROOT / "csrc/kernels/cuda" / kernel}.cu"\n')
    command = ["g++", *FLAGS, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    subprocess.run([*command, *map(str, sources), "-o", str(folder / program)], check=True)
    return folder / program


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize(
    ("program", "kernels", "arguments", "sanitizer"),
    [
        ("reduce_test", ("reduce", "reductions"), ("3000",), "address,undefined"),
        ("reduce_test", ("reduce", "reductions"), ("3000",), "thread"),
        ("class_loss_test", ("cross_entropy", "nll_loss", "rows"), (), "address,undefined"),
        ("gemm_test", ("matmul",), ("12",), "address"),
        ("wgmma_test", ("matmul",), (), "address,undefined"),
        ("wgmma_test", ("matmul",), (), "thread"),
    ],
)
def test_kernels(
    tmp_path: Path, program: str, kernels: tuple[str, ...], arguments: tuple[str, ...], sanitizer: str
) -> None:
    result = run(build(tmp_path, program, kernels, sanitizer), *arguments)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.fixture(scope="module")
def wgmma_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wgmma"), "wgmma_test", ("matmul",), "address")


@pytest.mark.parametrize(
    ("mistake", "report"),
    [
        ("consumer_does_not_wait", "more arrivals at an mbarrier"),
        ("early_release", "wrong == 0"),
        ("wrong_first_parity", "wait for ever"),
        ("never_released", "wait for ever"),
        ("stuck_parity", "more arrivals at an mbarrier"),
        ("too_few_bytes", "a block ends while the copy engine writes"),
        ("too_many_bytes", "wait for ever"),
        ("two_arrivals", "more arrivals at an mbarrier"),
        ("no_fence", "a product without wgmma.fence"),
        ("products_not_waited", "without having waited for its products"),
        ("not_initialized", "an mbarrier that was not initialized"),
    ],
)
def test_planted_mistake_in_a_pipeline_is_caught(wgmma_test: Path, mistake: str, report: str) -> None:
    result = run(wgmma_test, mistake)
    assert result.returncode != 0
    assert report in result.stdout + result.stderr
