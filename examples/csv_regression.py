"""y = 2 a - 3 b + 2 c from a CSV file with three inputs and a label, which this program writes first."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import fastgrad

WEIGHTS = np.array([2.0, -3.0, 2.0], dtype=np.float32)
QUESTIONS = torch.tensor([[5.0, 5, 0], [2, 3, 1], [-1, 0, -1], [10, 5, 2], [4, -1, -2]])  # -5, -3, -4, 9, 7


def write_csv(path: Path, rows: int = 64) -> None:
    x = np.random.default_rng(0).uniform(-3, 3, (rows, 3)).round(2)
    np.savetxt(path, np.column_stack([x, x @ WEIGHTS]), delimiter=",", fmt="%.4f")


def train(path: Path, swapped: bool, epochs: int) -> tuple[nn.Linear, list[float]]:
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    x, y = table[:, :-1], table[:, [-1]]
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    criterion = nn.MSELoss()
    if swapped:
        fastgrad.swap(model)
        fastgrad.swap(criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(epochs):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def main(epochs: int = 2000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.csv")
        write_csv(path)
        for swapped in (False, True):
            model, losses = train(path, swapped, epochs)
            with torch.no_grad():
                answers = model(QUESTIONS).flatten().tolist()
            print(f"{'fastgrad' if swapped else 'torch':8}  loss {losses[-1]:.2e}, W = {model.weight.tolist()[0]}")
            print(f"{'':8}  answers {[round(answer, 3) for answer in answers]}")


if __name__ == "__main__":
    main()
