"""A GPU that is not there (pretended_gpu.cpp): pytest --device pretended runs the suite on CUDA tensors without one."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

import fastgrad

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests/pretended_gpu.cpp"


def build() -> Path:
    """Return the module, compiled once per source and torch."""
    includes = [*cpp_extension.include_paths(), sysconfig.get_path("include"), str(ROOT / "csrc/emulator")]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", *(f"-I{path}" for path in includes)]
    libraries = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-lc10", "-ltorch_cpu", "-ltorch_python"]
    command = ["g++", *flags, str(SOURCE), *libraries]
    sources = SOURCE.read_bytes() + (ROOT / "csrc/emulator/cuda_runtime.h").read_bytes()
    key = hashlib.sha256(sources + repr((torch.__version__, command)).encode()).hexdigest()[:16]
    folder = ROOT / "build/pretended_gpu"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{key}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            unfinished = library.with_suffix(".unfinished")
            subprocess.run([*command, "-o", str(unfinished)], check=True)
            unfinished.rename(library)
    return library


gpu: Any = None  # the module, once installed


def install() -> None:
    """From here on, torch has two CUDA devices, whose memory is the host's and whose kernels are emulated."""
    if torch.version.cuda or "emulated" not in fastgrad.backends():
        raise RuntimeError("a GPU is pretended with a torch for the CPU and a fastgrad built with FASTGRAD_EMULATOR=ON")
    specification = importlib.util.spec_from_file_location("pretended_gpu", build())
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    global gpu
    gpu = module
    torch.cuda._lazy_init = lambda: None  # called by whatever makes a CUDA tensor
    torch.cuda.get_rng_state = lambda device=0: torch.empty(0, device="cpu")  # the CPU's generator serves all
    torch.cuda.set_rng_state = lambda state, device=0: None
    sys.modules["fastgrad.swap"]._DEVICES = ("cpu", "cuda", "meta")  # as if built with CUDA
    fastgrad._C.emulate_cuda()
