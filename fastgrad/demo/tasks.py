"""What the demo trains: the data, the model, the loss and the settings of each task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastgrad.demo.csv_file import read_csv

__all__ = ["Task", "builtin", "from_csv"]


@dataclass(frozen=True)
class Task:
    """One model and its data; everything in it is torch's own, so that the swap is the only difference."""

    name: str
    stem: str  # of its files
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    model: Callable[[], nn.Module]
    loss: Callable[[], nn.Module]
    score: Callable[[Tensor, Tensor], float]
    score_name: str
    epochs: int
    lr: float
    momentum: float = 0.0
    batch_size: int | None = None  # None: all rows at once


def builtin() -> list[Task]:
    """The tasks on data that ships inside scikit-learn."""
    return [breast_cancer(), regression(), digits()]


def breast_cancer() -> Task:
    """Logistic regression: 569 tumours, 30 measurements each, malignant or benign."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    train, test = _split(features, labels, seed=1234)
    return _logistic("logistic regression, breast cancer", "breast_cancer", train, test, epochs=100, lr=0.01)


def regression() -> Task:
    """A line through 100 noisy points."""
    from sklearn.datasets import make_regression

    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=1)
    points = (_floats(x), _floats(y).view(-1, 1))
    return _linear(
        "linear regression, 100 points", "regression", points, points, "R² (all points)", epochs=200, lr=0.01
    )


def digits() -> Task:
    """A multi-layer perceptron that reads 8 x 8 images of handwritten digits, in mini-batches."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8) / 16
    parts = train_test_split(images, labels, test_size=0.2, random_state=1, stratify=labels)
    train_x, test_x = map(_floats, parts[:2])
    train_y, test_y = map(torch.from_numpy, parts[2:])
    return Task(
        name="MLP classifier, digits",
        stem="digits",
        train=(train_x, train_y),
        test=(test_x, test_y),
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        loss=nn.CrossEntropyLoss,
        score=class_accuracy,
        score_name="test accuracy",
        epochs=20,
        lr=0.05,
        momentum=0.9,
        batch_size=64,
    )


def from_csv(path: Path, seed: int) -> Task:
    """Logistic regression where every label is 0 or 1, linear regression otherwise; 80 % of the rows to train on."""
    features, labels, _ = read_csv(path)
    if np.isin(labels, (0.0, 1.0)).all():
        train, test = _split(features, labels, seed)
        return _logistic(f"logistic regression, {path.name}", path.stem, train, test, epochs=500, lr=0.1)
    # Labels of any unit: squared errors of large or small ones leave the range of float32. R² does not change.
    train, test = _split(features, labels, seed, scale_labels=True)
    # Stable for standardized features, however strongly they correlate: the Hessian's largest eigenvalue is at most
    # twice the number of parameters.
    lr = min(0.01, 0.5 / (features.shape[1] + 1))
    return _linear(f"linear regression, {path.name}", path.stem, train, test, "test R²", epochs=1000, lr=lr)


def _logistic(
    name: str, stem: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], epochs: int, lr: float
) -> Task:
    inputs = train[0].shape[1]
    return Task(
        name=name,
        stem=stem,
        train=train,
        test=test,
        model=lambda: nn.Sequential(nn.Linear(inputs, 1), nn.Sigmoid()),
        loss=nn.BCELoss,
        score=binary_accuracy,
        score_name="test accuracy",
        epochs=epochs,
        lr=lr,
    )


def _linear(
    name: str,
    stem: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    score_name: str,
    epochs: int,
    lr: float,
) -> Task:
    inputs = train[0].shape[1]
    return Task(
        name=name,
        stem=stem,
        train=train,
        test=test,
        model=lambda: nn.Sequential(nn.Linear(inputs, 1)),
        loss=nn.MSELoss,
        score=r_squared,
        score_name=score_name,
        epochs=epochs,
        lr=lr,
    )


def _split(
    features: np.ndarray, labels: np.ndarray, seed: int, scale_labels: bool = False
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """An 80/20 split, features, and labels where wanted, scaled to mean 0 and variance 1 of the training part."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    column = labels.reshape(-1, 1)
    train_x, test_x, train_y, test_y = train_test_split(features, column, test_size=0.2, random_state=seed)
    scaler = StandardScaler().fit(train_x)
    train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)
    if scale_labels:
        scaler = StandardScaler().fit(train_y)
        train_y, test_y = scaler.transform(train_y), scaler.transform(test_y)
    return (_floats(train_x), _floats(train_y)), (_floats(test_x), _floats(test_y))


def _floats(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def binary_accuracy(output: Tensor, target: Tensor) -> float:
    """The share of probabilities on the right side of 1/2."""
    return ((output > 0.5) == (target > 0.5)).double().mean().item()


def class_accuracy(output: Tensor, target: Tensor) -> float:
    """The share of rows whose largest logit is that of the target class."""
    return (output.argmax(1) == target).double().mean().item()


def r_squared(output: Tensor, target: Tensor) -> float:
    """1 - (squared error) / (squared deviation from the mean): 1 is perfect, 0 as good as the mean.

    NaN where all targets are equal.
    """
    output, target = output.double(), target.double()
    deviation = (target - target.mean()).square().sum().item()
    return 1 - (output - target).square().sum().item() / deviation if deviation else math.nan
