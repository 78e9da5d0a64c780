"""Checks the compiled CUDA kernels, on a machine that needs no GPU: `make check-cuda`.

Reads what nvcc said of each kernel in a build with FASTGRAD_CUDA_REPORT=ON (in the folder given, or the newest one in
build/) and fails on warnings, register spills and local memory. Disassembles the sm_90a matrix product, which must hold
what it is for. Prints per kernel template the registers used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
OBJECTS = "CMakeFiles/cuda_kernels.dir/csrc/kernels/cuda"
ARCHS = {"sm_80", "sm_90a"}  # what every build is checked for
GROUPS = {"0": "warp", "1": "block", "2": "across"}  # of the row engine, rows.cuh
# What ptxas says, and goes on, where it runs wgmma one after another or gives warpgroups no registers of others.
LOSSES = re.compile(r"Potential Performance Loss.*|.*setmaxnreg ignored.*")
INSTRUCTIONS = ("HGMMA", "UTMALDG")  # wgmma, and loads of the copy engine


class Kernel(NamedTuple):
    name: str
    arch: str
    registers: int
    stack: int
    spills: int


def newest_build() -> Path | None:
    folders = [p for p in (ROOT / "build").glob(f"*/{OBJECTS}") if list(p.glob("*.o.txt"))]
    return max(folders, key=lambda p: p.stat().st_mtime, default=None)


def kernels_of(report: str) -> list[Kernel]:
    demangled = subprocess.run(["c++filt"], input=report, capture_output=True, text=True, check=True).stdout
    found = []
    for part in demangled.split("Compiling entry function ")[1:]:
        name, arch = re.match(r"'(.*)' for '(\w+)'", part).groups()  # type: ignore[union-attr]
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) .*, (\d+) bytes", part).groups())  # type: ignore[union-attr]
        registers = int(re.search(r"Used (\d+) registers", part)[1])  # type: ignore[index]
        found.append(Kernel(name, arch, registers, stack, stores + loads))
    return found


def template(name: str) -> str:
    """The kernel's name, without its namespace and arguments."""
    short = re.match(r"(?:void )?(?:\(anonymous namespace\)|[\w:])*?(\w+)[<(]", name)
    group = re.search(r"Group\)(\d)", name)
    return (short[1] if short else name) + (f"<{GROUPS[group[1]]}>" if group else "")


def print_table(kernels: list[Kernel]) -> None:
    rows: dict[tuple[str, str], list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        rows[template(kernel.name), kernel.arch].append(kernel)
    print(f"{'kernel':24} {'arch':8} {'instances':>9}  {'registers':>9}  {'stack':>5}  {'spills':>6}")
    for (name, arch), group in sorted(rows.items()):
        registers = [k.registers for k in group]
        used = f"{min(registers)} - {max(registers)}"
        stack, spills = sum(k.stack for k in group), sum(k.spills for k in group)
        print(f"{name:24} {arch:8} {len(group):9}  {used:>9}  {stack:5}  {spills:6}")


def find_cuobjdump() -> str | None:
    """Of a toolkit, or of the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm beside this Python."""
    folders = [os.environ[name] + "/bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders += [*os.get_exec_path(), "/usr/local/cuda/bin"]
    folders += [str(p) for p in Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin")]
    return shutil.which("cuobjdump", path=os.pathsep.join(folders))


def disassembly(matmul: Path) -> list[str]:
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        return ["no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"]
    environment = os.environ | {"PATH": os.path.dirname(cuobjdump) + os.pathsep + os.environ["PATH"]}
    command = [cuobjdump, "-sass", "-arch", "sm_90a", matmul]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        return [f"cuobjdump failed: {result.stderr.strip()}"]
    counts = {name: result.stdout.count(name) for name in INSTRUCTIONS}
    print("sm_90a matrix product: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return [f"no {name} in the sm_90a matrix product" for name, count in counts.items() if count == 0]


def main() -> int:
    folder = Path(sys.argv[1]) / OBJECTS if len(sys.argv) > 1 else newest_build()
    if folder is None or not folder.is_dir():
        print("check_cuda: no compiled CUDA kernels; build with FASTGRAD_CUDA=on FASTGRAD_CUDA_REPORT=ON")
        return 1
    problems, kernels = [], []
    for source in sorted((ROOT / "csrc/kernels/cuda").glob("*.cu")):
        report = folder / f"{source.name}.o.txt"
        if not report.exists():
            problems.append(f"{source.name} has no report in {folder}")
            continue
        text = report.read_text()
        problems += [f"{source.name}: {line}" for line in text.splitlines() if "warning" in line]
        problems += [f"{source.name}: {loss[0]}" for loss in LOSSES.finditer(text)]
        kernels += kernels_of(text)
    print_table(kernels)
    for k in kernels:
        if k.stack or k.spills:
            problems.append(f"{k.name} for {k.arch}: {k.stack} bytes of stack, {k.spills} of spills")
    problems += [f"no kernel for {arch}" for arch in sorted(ARCHS - {k.arch for k in kernels})]
    problems += disassembly(folder / "matmul.cu.o")
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"check_cuda: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)} in {len(kernels)} kernels")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
