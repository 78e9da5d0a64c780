"""A line through six points on y = x + 2, and one through 100 noisy points."""

from __future__ import annotations

import torch
from sklearn.datasets import make_regression
from torch import Tensor, nn

import fastgrad


def six_points() -> tuple[Tensor, Tensor]:
    x = torch.arange(1.0, 7.0).view(-1, 1)
    return x, x + 2


def noisy_points() -> tuple[Tensor, Tensor]:
    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32).view(-1, 1)


def train(x: Tensor, y: Tensor, swapped: bool, epochs: int) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    model: nn.Module = nn.Linear(1, 1)
    criterion: nn.Module = nn.MSELoss()
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
    for swapped in (False, True):
        name = "fastgrad" if swapped else "torch"
        model, losses = train(*six_points(), swapped, epochs)
        with torch.no_grad():
            print(f"{name:8}  six points: loss {losses[-1]:.2e}, f(3.0) = {model(torch.tensor([[3.0]])).item():.4f}")
        _, losses = train(*noisy_points(), swapped, min(epochs, 500))
        print(f"{name:8}  100 points: loss {losses[0]:.1f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
