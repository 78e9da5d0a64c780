"""Is a tumour benign? Logistic regression on scikit-learn's breast cancer data."""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import fastgrad


def data() -> list[Tensor]:
    """Return the inputs to train on and to test on, then the labels of both."""
    features, labels = load_breast_cancer(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(features, labels, test_size=0.2, random_state=1234)
    scaler = StandardScaler().fit(train_x)
    inputs = [torch.tensor(scaler.transform(x), dtype=torch.float32) for x in (train_x, test_x)]
    return inputs + [torch.tensor(y, dtype=torch.float32).view(-1, 1) for y in (train_y, test_y)]


def train(swapped: bool, epochs: int) -> tuple[list[float], float]:
    """Return the loss of each epoch, and the accuracy on the held-out fifth."""
    train_x, test_x, train_y, test_y = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 1), nn.Sigmoid())
    criterion = nn.BCELoss()
    if swapped:
        fastgrad.swap(model)
        fastgrad.swap(criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(epochs):
        loss = criterion(model(train_x), train_y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        accuracy = (model(test_x).round() == test_y).float().mean().item()
    return losses, accuracy


def main(epochs: int = 100) -> None:
    for swapped in (False, True):
        losses, accuracy = train(swapped, epochs)
        every = "  ".join(f"{loss:.4f}" for loss in losses[9::10])
        print(f"{'fastgrad' if swapped else 'torch':8}  loss every 10 epochs {every}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
