"""The arguments of `fastgrad bench`, and the cases they choose. What is wrong gets one line; the rest is run."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import fastgrad
from fastgrad.bench.case import DTYPES, FAMILIES, Case, load

__all__ = ["choose", "devices", "parse", "threads"]

_SHORT = {"f32": "float32", "f64": "float64", "bf16": "bfloat16", "f16": "float16", "half": "float16"}
Complain = Callable[[str], None]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fastgrad bench",
        description="Time the ops against torch's: eager (E), eager with transparent huge pages (T) and torch.compile "
        "(C), interleaved; with the share of this machine's limit, peak memory and errors against float64.",
        epilog="Several values are separated by commas. docs/performance.md says how to read the figures.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="OP", help="ops or families (--list shows them); default: all")
    add("--list", action="store_true", help="list the cases and stop")
    add("--quick", action="store_true", help="a few cases of each family: under 3 minutes")
    add("--shape", metavar="SHAPE", help="sizes as in 1024x1024, in place of the cases' own")
    add("--dtype", metavar="DTYPE", help=f"in place of the cases' own: {', '.join(DTYPES)}")
    add("--threads", metavar="N", default="1", help="default: 1")
    add("--device", metavar="DEVICE", default="cpu", help="cpu, cuda; default: cpu")
    add("--backend", metavar="NAME", help=f"one of {', '.join(fastgrad.backends())}; default: the active one")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add("--seconds", metavar="S", type=float, help="for the rounds of each pass; default: 1, with --quick 0.3")
    add("--json", metavar="FILE", type=Path, help="write everything measured")
    add("--csv", metavar="FILE", type=Path, help="write the table")
    add("--plots", metavar="DIR", type=Path, help="write PNG plots, which includes scaling with size and threads")
    add("--out", metavar="DIR", type=Path, help="the same as --json DIR/bench.json --csv DIR/bench.csv --plots DIR")
    options = parser.parse_args(argv)
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        parser.error("--seconds must be a positive, finite number")
    if options.out is not None:
        options.json = options.json or options.out / "bench.json"
        options.csv = options.csv or options.out / "bench.csv"
        options.plots = options.plots or options.out
    return options


def choose(options: argparse.Namespace, complain: Complain) -> list[Case]:
    """The chosen cases, with the chosen shapes and dtypes."""
    cases = list(load())
    ops = {case.op for case in cases}
    names = set()
    for name in options.names:
        if name in ops or name in FAMILIES:
            names.add(name)
        else:
            near = difflib.get_close_matches(name, sorted(ops | set(FAMILIES)), n=1)
            complain(f"no op {name!r}{f'; did you mean {near[0]}?' if near else ' (--list shows them)'}")
    if options.names:
        cases = [case for case in cases if {case.op, case.family} & names]
    if options.quick:
        cases = [case.quickly() for case in cases if case.quick]
    shapes, dtypes = _shapes(options.shape, complain), _dtypes(options.dtype, complain)
    if (options.shape and not shapes) or (options.dtype and not dtypes):
        return []
    if not shapes and not dtypes:
        return cases
    chosen: dict[tuple[str, str, object, object], Case] = {}
    said = set()
    for case in cases:
        for shape in shapes or [case.shape]:
            for dtype in dtypes or [case.dtype]:
                try:
                    other = case.with_(shape, dtype)
                    key = (other.op, other.variant, other.shape, other.dtype)
                    if key not in chosen or not other.chosen:  # a case that is so by itself has targets
                        chosen[key] = other
                except ValueError as error:
                    if str(error) not in said:
                        said.add(str(error))
                        complain(str(error))
    return list(chosen.values())


def _shapes(text: str | None, complain: Complain) -> list[tuple[int, ...]]:
    shapes = []
    for part in text.split(",") if text else ():
        if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", part):
            shapes.append(tuple(map(int, part.split("x"))))
        else:
            complain(f"no shape {part!r}: write positive sizes as in 1024x1024")
    return shapes


def _dtypes(text: str | None, complain: Complain) -> list[torch.dtype]:
    dtypes = []
    for part in text.split(",") if text else ():
        name = _SHORT.get(part, part)
        if name in DTYPES:
            dtypes.append(DTYPES[name])
        else:
            near = difflib.get_close_matches(name, DTYPES, n=1)
            complain(f"no dtype {part!r}" + (f"; did you mean {near[0]}?" if near else f": {', '.join(DTYPES)}"))
    return dtypes


def threads(text: str, complain: Complain) -> list[int]:
    most = len(os.sched_getaffinity(0))
    numbers = []
    for part in text.split(","):
        if not part.isdecimal() or int(part) < 1:
            complain(f"--threads {part!r}: not a positive whole number")
        elif int(part) > most:
            complain(f"{part} threads: this process may use {most} core{'s' * (most != 1)}")
        else:
            numbers.append(int(part))
    return list(dict.fromkeys(numbers))


def devices(text: str, complain: Complain) -> list[str]:
    usable = []
    for part in text.split(","):
        if part not in ("cpu", "cuda"):
            complain(f"no device {part!r}: cpu or cuda")
        elif part == "cuda" and not torch.cuda.is_available():
            complain("device cuda: torch finds no GPU")
        elif part == "cuda" and not fastgrad._build_info.CUDA_VERSION:
            complain("device cuda: fastgrad was built without CUDA kernels")
        else:
            usable.append(part)
    return list(dict.fromkeys(usable))
