"""Times the ops of `fastgrad bench` on a GPU, at sizes that fill one: fastgrad, torch eager, torch.compile.

CUDA events, medians of interleaved rounds, rotated inputs, fresh random data, errors against float64. First every op
against eager, the products first, in float32 and bfloat16; then, while time is left, against torch.compile too. The
file is written after every case: what time did not suffice for is named in it.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastgrad.bench.case import Case, load
from fastgrad.bench.measure import Session, one_line
from fastgrad.bench.statistics import spread

_ROUNDS = 5


def resized(case: Case, numel: int, edge: int) -> Case:
    """Cubic products; else as many rows as make about `numel` elements."""
    if case.family == "training":
        return case
    if case.compute_bound and len(case.shape) == 3:
        return case.with_((edge,) * 3, case.dtype)
    if case.op == "bmm":
        return case.with_((max(1, edge // 64), *(min(edge, n) for n in (512, 64, 512))), case.dtype)
    first, *rest = case.shape
    rows = max(1, numel // max(1, torch.Size(rest).numel()))
    return case.with_((rows, *rest), case.dtype)


def chosen(numel: int, edge: int) -> list[Case]:
    """One case of each op and variant, in float32 and bfloat16, and the cases of other dtypes."""
    cases: dict[Any, Case] = {}
    for case in load():
        dtypes = [case.dtype]
        if case.dtype == torch.float32:
            dtypes += [torch.bfloat16]
        if case.dtype == torch.float32 and case.compute_bound:
            dtypes += [torch.float16]
        for dtype in dtypes:  # products of the tensor cores of 16-bit types take an eighth of the time
            other = resized(case, numel, edge if dtype.itemsize == 2 else edge // 2)
            cases.setdefault((case.op, case.variant, dtype), replace(other, dtype=dtype))
    return sorted(cases.values(), key=lambda c: (not c.compute_bound, c.dtype != torch.float32, not c.quick))


def measured(case: Case, device: str, compiled: bool) -> Iterator[dict[str, Any]]:
    session = Session(case, device, 1, compiled, limit=False)
    for which in case.passes:
        rounds = [session.round(which) for _ in range(_ROUNDS)]
        names = [name for name in rounds[0] if name != "spent"]
        yield {
            "family": case.family,
            "op": case.op,
            "variant": case.variant,
            "shape": list(case.shape),
            "dtype": case.dtype_name,
            "pass": which,
            "compute bound": case.compute_bound,
            "seconds": {name: spread([r[name] for r in rounds]).record() for name in names},
            "traffic": session.traffic[which],
            "error": session.errors(which) if not compiled else {},
            "problems": session.problems,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=200, help="after which no further case is begun")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to try the script")
    parser.add_argument("--ops", nargs="*", help="only these")
    parser.add_argument("--dtypes", nargs="*", help="only these, as float32")
    compiler = parser.add_mutually_exclusive_group()
    compiler.add_argument("--no-compile", action="store_true")
    compiler.add_argument("--only-compile", action="store_true", help="against torch.compile at once")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    warnings.simplefilter("ignore")
    torch._functorch.config.donated_buffer = False  # a compiled backward may run again
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(time.time_ns() % 2**31)
    cases = chosen(4096, 64) if options.tiny else chosen(1 << 26, 8192)
    cases = [case for case in cases if not options.ops or case.op in options.ops]
    cases = [case for case in cases if not options.dtypes or str(case.dtype)[6:] in options.dtypes]
    records: list[dict[str, Any]] = []
    problems: list[str] = []
    late: list[str] = []
    for compiled in (False,) if options.no_compile else (True,) if options.only_compile else (False, True):
        for case in cases:
            name = f"{case.title} {case.shape_name} {case.dtype_name}{' compiled' * compiled}"
            if compiled and not case.compiled:
                continue
            if time.monotonic() > end:
                late.append(name)
                continue
            try:
                records += measured(case, options.device, compiled)
            except Exception as error:
                problems.append(f"{name}: {one_line(error)}")
                print(problems[-1], flush=True)
            everything = {"results": records, "problems": problems, "not reached": late}
            options.json.write_text(json.dumps(everything, indent=1) + "\n")
    everything = {"results": records, "problems": problems, "not reached": late}
    options.json.write_text(json.dumps(everything, indent=1) + "\n")
    print(f"{len(records)} measurements, {len(problems)} cases failed, {len(late)} not reached")
    return bool(problems) or not records


if __name__ == "__main__":
    raise SystemExit(main())
