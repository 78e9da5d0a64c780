"""Products of bfloat16 by pairs: their arithmetic emulated, on any CPU, and the instruction itself where it belongs."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from checks import once
from programs import Programs, run

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "csrc/kernels/cpu"
FLAGS = ("-std=c++20", "-O1", "-ffp-contract=fast", "-Wno-psabi", "-Wno-maybe-uninitialized", "-pthread")

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    once,
]


def test_products_by_pairs(programs: Programs) -> None:
    sources = (ROOT / "tests/kernels/gemm_test.cpp", *(KERNELS / f"{s}.cpp" for s in ("gemm", "gemv", "matmul")))
    defines = ("-DFASTGRAD_BACKEND_NAMESPACE=cpu_default", "-DFASTGRAD_EMULATE_DOT_PAIRS")
    # Compiled without optimization: what it saves is more than it costs.
    result = run(programs.build(sources, (*FLAGS, "-O0", "-fsanitize=address", *defines)))
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("objdump") is None, reason="needs x86 and objdump")
def test_tiles_of_pairs_are_of_the_instruction(programs: Programs) -> None:
    ours = re.search(r"add_cpu_backend\(avx512 (.*)\)", (ROOT / "cmake/cpu_backends.cmake").read_text())
    assert ours
    flags = (*FLAGS, *ours[1].split(), "-DFASTGRAD_BACKEND_NAMESPACE=cpu_avx512")
    target = programs.compile(KERNELS / "gemm.cpp", flags)
    listing = subprocess.run(["objdump", "-dC", str(target)], capture_output=True, text=True, check=True).stdout
    inside = {label: body.count("vdpbf16ps") for label, body in re.findall(r"^\w+ <(.*)>:\n((?:.+\n)+)", listing, re.M)}
    tiles = {label: count for label, count in inside.items() if "tile_kernel<unsigned int," in label}
    # A tile of 14 x 2 registers, in a loop of four steps: the instruction takes the place of the multiply-add.
    assert any("tile_kernel<unsigned int, 14, 2," in label and count >= 4 * 28 for label, count in tiles.items())
    assert all(tiles.values())
    assert not any(count for label, count in inside.items() if label not in tiles)
