"""An MLP learns a function of ten inputs: train and eval loops, saving and loading, the same bits on a second run."""

from __future__ import annotations

import io

import torch
from torch import nn

import fastgrad


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def train(swapped: bool, epochs: int) -> tuple[Regressor, list[float]]:
    """Return the model, and the loss on held-out data after each epoch."""
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    y = torch.tanh(x.sum(1, keepdim=True))
    model = Regressor()
    criterion = nn.MSELoss()
    if swapped:
        fastgrad.swap(model)
        fastgrad.swap(criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(epochs):
        model.train()
        for i in range(0, 192, 32):
            optimizer.zero_grad()
            criterion(model(x[i : i + 32]), y[i : i + 32]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            losses.append(criterion(model(x[192:]), y[192:]).item())
    return model, losses


def main(epochs: int = 50) -> None:
    for swapped in (False, True):
        model, losses = train(swapped, epochs)
        again = train(swapped, epochs)[1]
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        Regressor().load_state_dict(torch.load(file))  # torch's own layers: the names and shapes are the same
        same = "the same bits" if losses == again else "other bits"
        print(f"{'fastgrad' if swapped else 'torch':8}  loss {losses[0]:.4f} -> {losses[-1]:.4f}, a second run: {same}")


if __name__ == "__main__":
    main()
