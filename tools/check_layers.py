"""Checks the rules between the layers (docs/design.md): includes, calls, source lists, symbols, file sizes, paths."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = {".h", ".cpp", ".inc", ".cu", ".cuh"}

TORCH = r"(torch|ATen|c10|pybind11|Python\.h)\b"
CUDA = r"(cuda|cub/|thrust/|cooperative_groups|cutlass|cute/)"
INTRINSICS = r"(\w*intrin\.h|arm_\w+\.h|cpuid\.h)"
# Folder, what its includes must not match, and why. A file belongs to the first folder that holds it.
FORBIDDEN = [
    ("csrc/kernels/math", f"{TORCH}|{CUDA}|{INTRINSICS}|.*(cpu|cuda)/", "formulas know neither torch nor processor"),
    ("csrc/kernels/cpu", f"{TORCH}|{CUDA}|.*cuda/", "a CPU kernel knows neither torch nor CUDA"),
    ("csrc/kernels/cuda", rf"{TORCH}|cub/|thrust/|cutlass|cute/|cooperative_groups|.*\bcpu/", "the CUDA runtime only"),
    ("csrc/kernels", f"{TORCH}|{CUDA}", "the contract knows neither torch nor CUDA"),
    ("csrc/emulator", f"{TORCH}|cub/|thrust/", "the emulator stands in for the CUDA runtime alone"),
    ("csrc/bindings", f"{CUDA}|{INTRINSICS}|.*kernels/(cpu|cuda|math)/", "bindings reach kernels through the glue"),
    ("csrc/ops", f"{CUDA}|{INTRINSICS}|.*kernels/(cpu|cuda|math)/", "the glue reaches kernels through a table"),
]
# A launcher takes its stream and its memory from the caller and waits for nothing, so that graphs can capture it; there
# are no atomics, so that sums have one order. What waits is for debugging.
NOT_CAPTURED = r"cuda(Malloc|Free|Memcpy|Memset|Host|DeviceSync|EventSync|StreamSync|StreamCreate)\w*|atomic\w+(?=\()"
WAITS = "csrc/kernels/cuda/table.cu"
LONGEST = 400  # lines of a source file


def sources() -> list[Path]:
    return sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in SUFFIXES)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def check_includes():
    for path in sources():
        for folder, pattern, reason in FORBIDDEN:
            if name(path).startswith(folder + "/"):
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    include = re.match(r'\s*#\s*include\s*[<"]([^>"]+)', line)
                    if include and re.match(pattern, include[1]):
                        yield f"{name(path)}:{number}: includes {include[1]}: {reason}"
                break


def check_calls():
    for path in sources():
        if name(path).startswith("csrc/kernels/cuda/") and name(path) != WAITS:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                call = re.search(NOT_CAPTURED, line.split("//")[0])
                if call:
                    yield f"{name(path)}:{number}: calls {call[0]}"


def check_lists():
    """The lists in CMakeLists.txt name each file of their folder exactly once."""
    text = (ROOT / "CMakeLists.txt").read_text()
    for variable, folder, suffix in [
        ("CPU_KERNELS", "csrc/kernels/cpu", ".cpp"),
        ("CUDA_KERNELS", "csrc/kernels/cuda", ".cu"),
        ("OPS", "csrc/ops", ".cpp"),
        ("BINDINGS", "csrc/bindings", ".cpp"),
    ]:
        listed = re.search(rf"set\({variable}\n(.*?)\)", text, re.S)
        stems = listed[1].split() if listed else []
        present = {p.stem for p in (ROOT / folder).glob("*" + suffix)}
        for stem in sorted(present.symmetric_difference(stems)):
            yield f"CMakeLists.txt: {variable} and {folder}/*{suffix} disagree about {stem}"
        if len(set(stems)) < len(stems):
            yield f"CMakeLists.txt: {variable} names a file twice"


def check_symbols():
    """What the linker may merge must not exist in two ISAs: it could keep the one that this CPU cannot run."""
    objects = sorted((ROOT / "build").glob("*/CMakeFiles/cpu_*.dir/**/*.o"))
    if not objects:
        yield "build/: no compiled kernels to look at; build first (make test)"
    for path in objects:
        isa = next(part[: -len(".dir")] for part in path.parts if re.fullmatch(r"cpu_\w+\.dir", part))
        table = subprocess.run(["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        for line in table.splitlines():
            _, kind, symbol = line.split(" ", 2)
            merged = kind in "WVwvu" and not symbol.startswith("DW.ref.")
            if (merged or kind in "TDBR") and f"fastgrad::{isa}::" not in symbol:
                yield f"{name(path)}: {kind} {symbol} lies outside fastgrad::{isa}"


def check_files():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    here = re.escape(str(ROOT.resolve()))
    stray = re.compile(rf"""(^|[\s"'=:(`]){here}(/|\b)|/home/\w+/|/Users/\w+/|/root/\w""", re.M)
    for file in tracked or [name(p) for p in sources()]:
        path = ROOT / file
        if not path.is_file() or path.suffix in {".png", ".json", ".svg"} or path == Path(__file__).resolve():
            continue
        text = path.read_text(errors="replace")
        found = stray.search(text)
        if found:
            yield f"{file}: names a path of one machine: {found[0].strip()}"
        lines = text.count("\n")
        if path.suffix in SUFFIXES | {".py", ".cmake"} and lines > LONGEST:
            yield f"{file}: {lines} lines; a file stays under {LONGEST}"


def main() -> int:
    problems = [p for check in (check_includes, check_calls, check_lists, check_symbols, check_files) for p in check()]
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"check_layers: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)} in {len(sources())} C++ sources")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
