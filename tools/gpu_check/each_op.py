"""Calls every op once, forward and backward, on small arguments: what compute-sanitizer watches."""

from __future__ import annotations

import argparse

import torch

from fastgrad.bench.case import Case, load


def small(case: Case) -> Case:
    if case.family == "training":
        return case
    if case.op in ("matmul", "linear") and case.dtype.itemsize == 2:
        return case.with_((1160, 136, 1160), case.dtype)  # large enough for the kernels of the tensor cores
    return case.with_(tuple(min(size, 67) for size in case.shape), case.dtype)


def run(case: Case, device: str) -> None:
    with torch.device(device):
        args = [a.detach() if isinstance(a, torch.Tensor) else a for a in case.args(case.shape, case.dtype)]
    if case.passes == ("forward",) or not any("backward" in which for which in case.passes):
        case.ours(*args)
        return
    wanted = [args[i].requires_grad_() for i in case.gradients]
    out = case.ours(*args)
    out = out if isinstance(out, torch.Tensor) else out[0]
    torch.autograd.grad(out, wanted, torch.rand_like(out))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    cases = {(c.op, c.variant, c.shape, c.dtype): c for c in map(small, load())}
    failed = 0
    for case in cases.values():
        try:
            run(case, device)
            if device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            failed += 1
            print(f"{case.title} {case.shape_name} {case.dtype_name}: {type(error).__name__}: {error}")
    print(f"{len(cases)} calls, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    raise SystemExit(main())
