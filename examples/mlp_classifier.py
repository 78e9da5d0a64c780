"""A multi-layer perceptron reads handwritten digits: mini-batches, momentum, an inference loop."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import fastgrad


def train(swapped: bool, epochs: int) -> tuple[list[float], float]:
    """Return the loss of each step, and the accuracy on the held-out images."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    dataset = TensorDataset(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels))
    train_set, test_set = random_split(dataset, [0.8, 0.2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    criterion = nn.CrossEntropyLoss()
    if swapped:
        print(fastgrad.swap(model))
        fastgrad.swap(criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    losses = []
    for _ in range(epochs):
        for x, y in DataLoader(train_set, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    correct = 0
    model.eval()
    with torch.no_grad():
        for x, y in DataLoader(test_set, batch_size=64):
            correct += (model(x).argmax(1) == y).sum().item()
    return losses, correct / len(test_set)


def main(epochs: int = 10) -> None:
    for swapped in (False, True):
        losses, accuracy = train(swapped, epochs)
        print(
            f"{'fastgrad' if swapped else 'torch':8}  loss {losses[0]:.4f} -> {losses[-1]:.4f}, accuracy {accuracy:.4f}"
        )


if __name__ == "__main__":
    main()
