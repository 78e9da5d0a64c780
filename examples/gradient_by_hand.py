"""y = w x fitted to y = 2 x by a gradient worked out by hand, without autograd."""

from __future__ import annotations

import torch

import fastgrad.functional as F


def train(epochs: int, native: bool) -> list[tuple[float, float, float]]:
    """Return (w after the step, dw, loss) of each epoch; the loss is a mean, dw the gradient of the sum."""
    ops = torch if native else F
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    y = ops.mul(x, 2)
    w = torch.tensor(0.0)
    history = []
    for _ in range(epochs):
        error = ops.sub(ops.mul(x, w), y)
        loss = ops.mean(ops.mul(error, error))
        dw = ops.sum(ops.mul(ops.mul(x, error), 2))
        w = ops.sub(w, dw, alpha=0.01)
        history.append((w.item(), dw.item(), loss.item()))
    return history


def main() -> None:
    for native in (True, False):
        print("torch" if native else "fastgrad")
        for epoch, (w, dw, loss) in enumerate(train(5, native)):
            print(f"  epoch {epoch}: w = {w:.3f}, dw = {dw:.2f}, loss = {loss:.6g}")


if __name__ == "__main__":
    main()
