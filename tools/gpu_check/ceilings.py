"""What the device does at best: bytes copied, multiply-adds, and matrix products of torch's library, a second. JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from fastgrad.bench.clock import clock

HERE = Path(__file__).parent


def median(call: Callable[[], Any], device: str) -> float:
    timer = Timer("f()", globals={"f": call}, timer=clock(device))
    timer.timeit(1)
    return sorted(timer.blocked_autorange(min_run_time=0.02).median for _ in range(7))[3]


def ceilings(device: str, copied: int, edge: int) -> dict[str, float]:
    source = torch.rand(copied // 4, device=device)
    target = torch.empty_like(source)
    result = {"copy, B/s": 2 * copied / median(lambda: target.copy_(source), device)}
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        a, b = (torch.rand(edge, edge, device=device).sub_(0.5).to(dtype) for _ in range(2))
        result[f"{name} product, flop/s"] = 2.0 * edge**3 / median(lambda a=a, b=b: a @ b, device)
    return result


def multiply_adds() -> dict[str, float]:
    nvcc = shutil.which("nvcc", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    if nvcc is None:
        raise RuntimeError("no nvcc: the peak of multiply-adds is not measured")
    major, minor = torch.cuda.get_device_capability()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peaks"
        arch = f"-gencode=arch=compute_{major}{minor},code=sm_{major}{minor}"
        subprocess.run([nvcc, "-O3", arch, str(HERE / "peaks.cu"), "-o", str(program)], check=True)
        return json.loads(subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to try the script")
    options = parser.parse_args()
    result = ceilings(options.device, 1 << 20, 64) if options.tiny else ceilings(options.device, 1 << 30, 8192)
    problem = None
    if options.device == "cuda":
        try:
            result |= multiply_adds()
        except (RuntimeError, subprocess.CalledProcessError) as error:
            problem = error
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    if problem:
        print(problem)
    return problem is not None


if __name__ == "__main__":
    raise SystemExit(main())
