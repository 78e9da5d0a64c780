"""A small convolutional net: its convolution stays torch's, its linear layer is swapped; then only that is tuned."""

from __future__ import annotations

import torch
from torch import nn

import fastgrad


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(1350, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.relu(self.conv(x)), 2)
        return self.fc(self.relu(x).flatten(1))


def step(swapped: bool, last_layer_only: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss before one step of training, and the parameters after it."""
    torch.manual_seed(0)
    net = Net()
    criterion = nn.MSELoss()
    x, y = torch.randn(1, 1, 32, 32), torch.randn(1, 10)
    if swapped:
        print(fastgrad.swap(net, verify=x))
        fastgrad.swap(criterion)
    if last_layer_only:
        net.requires_grad_(False)
        net.fc.requires_grad_(True)
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.01)
    loss = criterion(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item(), net.state_dict()


def main() -> None:
    for last_layer_only in (False, True):
        (a, theirs), (b, ours) = (step(swapped, last_layer_only) for swapped in (False, True))
        difference = max((theirs[name] - ours[name]).abs().max().item() for name in theirs)
        print(f"torch {a:.6f}, fastgrad {b:.6f}; parameters after the step differ by at most {difference:.2g}")


if __name__ == "__main__":
    main()
