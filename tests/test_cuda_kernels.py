"""The CUDA kernels' own tests, on the emulator, without torch: under the address and the thread sanitizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checks import once
from programs import Programs, run

ROOT = Path(__file__).parents[1]
EMULATOR = sorted((ROOT / "csrc/emulator").glob("*.cpp"))
FLAGS = [
    *("-std=c++20", "-g1", "-Wno-unknown-pragmas", "-Wno-psabi", "-pthread", "-fno-sanitize-recover=all"),
    *("-DFASTGRAD_BACKEND_NAMESPACE=cuda_emulated", '-DFASTGRAD_BACKEND_NAME="emulated"'),
    f"-I{ROOT / 'csrc/emulator'}",
]

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    once,
]


def build(programs: Programs, program: str, kernels: tuple[str, ...], sanitizer: str) -> Path:
    # Products run for longer than they are compiled, reductions and losses are compiled for longer than they run.
    optimize = "-O1" if "matmul" in kernels else "-O0"
    sources = [ROOT / f"tests/kernels/{program}.cpp", *EMULATOR]
    sources += [ROOT / f"csrc/kernels/cuda/{kernel}.cu" for kernel in kernels]
    return programs.build(sources, [*FLAGS, optimize, f"-fsanitize={sanitizer}"])


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
    programs: Programs, program: str, kernels: tuple[str, ...], arguments: tuple[str, ...], sanitizer: str
) -> None:
    result = run(build(programs, program, kernels, sanitizer), *arguments)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


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
def test_planted_mistake_in_a_pipeline_is_caught(programs: Programs, mistake: str, report: str) -> None:
    result = run(build(programs, "wgmma_test", ("matmul",), "address,undefined"), mistake)
    assert result.returncode != 0
    assert report in result.stdout + result.stderr
