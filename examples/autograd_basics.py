"""Autograd through fastgrad's functions: scalar and vector backward, accumulation, no_grad, detach."""

from __future__ import annotations

from typing import Any

import torch

import fastgrad.functional as F


def run(ops: Any) -> dict[str, object]:
    """Return what each experiment gives with the functions of `ops`: torch, or fastgrad.functional."""
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    z = ops.mul(ops.pow(ops.add(x, 2), 2), 2)
    ops.mean(z).backward(retain_graph=True)
    results: dict[str, object] = {"gradient of mean(2 (x + 2)^2)": x.grad.tolist()}

    x.grad.zero_()
    z.backward(torch.tensor([0.1, 1.0, 0.001]))
    results["backward with a vector"] = x.grad.tolist()
    try:
        z.backward(torch.ones(3))
    except RuntimeError as error:
        results["second backward"] = str(error).partition(".")[0]

    weights = torch.ones(4, requires_grad=True)
    accumulated = []
    for _ in range(3):
        ops.sum(ops.mul(weights, 3)).backward()
        accumulated.append(weights.grad[0].item())
    results["gradients accumulate"] = accumulated

    with torch.no_grad():
        results["requires_grad under no_grad"] = ops.add(x, 2).requires_grad
    results["requires_grad of detach"] = ops.add(x.detach(), 2).requires_grad
    return results


def main() -> None:
    theirs, ours = run(torch), run(F)
    for name, value in theirs.items():
        print(f"{name}\n  torch     {value}\n  fastgrad  {ours[name]}")


if __name__ == "__main__":
    main()
