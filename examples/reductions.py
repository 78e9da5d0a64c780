"""Sums, means, spreads and largest elements of small tensors."""

from __future__ import annotations

from typing import Any

import torch

import fastgrad.functional as F

A = torch.tensor([[0.0, 1, 0], [2, 0, 2], [0, 3, 0]])
B = torch.tensor([[1.0, 0, 0, 2], [0, 3, 3, 0], [4, 0, 0, 5]])


def run(ops: Any) -> dict[str, object]:
    """Return each result with the functions of `ops`: torch, or fastgrad.functional."""
    results: dict[str, object] = {name: getattr(ops, name)(A).item() for name in ("sum", "mean", "std", "prod")}
    results |= {f"sum(dim={dim})": ops.sum(A, dim=dim).tolist() for dim in (0, 1)}
    for dim in (0, 1):
        values, indices = ops.max(B, dim=dim)
        results[f"max(dim={dim})"] = (values.tolist(), indices.tolist())
    results["argmax"] = ops.argmax(B).item()
    return results


def main() -> None:
    theirs, ours = run(torch), run(F)
    for name, value in theirs.items():
        print(f"{name:10}  torch {value}  fastgrad {ours[name]}")


if __name__ == "__main__":
    main()
