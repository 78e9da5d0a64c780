"""The command line: `python -m fastgrad info | demo | bench`."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import fastgrad

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand with the given arguments (default: those of the process); return the exit status."""
    parser = argparse.ArgumentParser(prog="fastgrad", description="Hand-written kernels for PyTorch models.")
    parser.add_argument("--version", action="version", version=f"fastgrad {fastgrad.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("info", help="versions, build, CPU, backends, threads, CUDA")
    for name, help in (
        ("demo", "train models on real data, natively and after fastgrad.swap, and compare"),
        ("bench", "time the ops against torch's"),
    ):
        commands.add_parser(name, help=help, add_help=False)  # -h is theirs too
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "info":
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        print(info())
        return 0
    try:
        fastgrad.active_backend()
    except ValueError as error:  # FASTGRAD_BACKEND
        print(f"fastgrad {arguments.command}: {_reason(error)}", file=sys.stderr)
        return 2
    if arguments.command == "demo":
        from fastgrad import demo

        return demo.main(rest)
    from fastgrad import bench

    return bench.main(rest)


def info() -> str:
    """Return what a report of a problem should contain, one fact a line."""
    import torch

    from fastgrad import _build_info as build

    cuda = f"{build.CUDA_VERSION}, {' '.join(build.CUDA_ARCHS)}" if build.CUDA_VERSION else f"no ({build.CUDA_STATUS})"
    device = f"yes: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no"
    facts = [
        ("fastgrad", fastgrad.__version__),
        ("installed in", fastgrad.__path__[0]),
        ("torch", f"{torch.__version__} (built for {build.TORCH_VERSION})"),
        ("python", f"{platform.python_version()} {platform.platform()}"),
        ("build", f"{build.BUILD_TYPE}, {build.COMPILER}{', with the CUDA emulator' if build.EMULATOR else ''}"),
        ("cpu", _cpu()),
        ("active backend", _active_backend()),
        ("backends", f"{' '.join(fastgrad.backends())} (built: {' '.join(build.CPU_BACKENDS)})"),
        ("threads", str(torch.get_num_threads())),
        ("OpenMP", _openmp()),
        ("CUDA built", cuda),
        ("CUDA available", device),
    ]
    return "\n".join(f"{name:15} {value}" for name, value in facts)


def _active_backend() -> str:
    try:
        return fastgrad.active_backend()
    except ValueError as error:  # a report of this problem needs the other facts as well
        return f"none: {_reason(error)}"


def _reason(error: ValueError) -> str:
    return str(error).removeprefix("fastgrad: ")


def _cpu() -> str:
    """The processor, and those of its instruction sets that fastgrad has kernels for."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    flags = fields.get("flags", fields.get("Features", "")).split()
    known = "sse2 avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_bf16 asimd".split()
    model = fields.get("model name") or platform.processor() or platform.machine()
    return f"{model} ({' '.join(flag for flag in known if flag in flags) or platform.machine()})"


def _openmp() -> str:
    """The OpenMP runtimes in this process: threads are torch's, so there should be torch's alone."""
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return "unknown"
    paths = {line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6}
    runtimes = sorted(p for p in paths if Path(p).name.startswith(("libgomp", "libomp", "libiomp")))
    if len(runtimes) > 1:
        return f"{', '.join(runtimes)}: more than one, expected torch's alone"
    return runtimes[0] if runtimes else "none loaded"


if __name__ == "__main__":
    sys.exit(main())
