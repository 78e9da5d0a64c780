"""The programs of introductory PyTorch courses, with the numbers they give there, on fastgrad."""

from __future__ import annotations

import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Ops, assert_same_curve, example
from torch import nn

import fastgrad
import fastgrad.functional as F

needs_sklearn = pytest.mark.skipif(not find_spec("sklearn"), reason="needs scikit-learn")


@needs_sklearn
def test_simple_linear_regression() -> None:
    program = example("linear_regression")
    curves = []
    for swapped in (False, True):
        model, losses = program.train(*program.six_points(), swapped, 2000)
        curves.append(losses)
        assert model(torch.tensor([[3.0]])).item() == pytest.approx(5.0, abs=1e-2)
    assert_same_curve(curves[1], curves[0])


def test_gradient_by_hand() -> None:
    history = example("gradient_by_hand").train(5, native=False)
    w, dw, loss = zip(*history, strict=True)
    assert w == pytest.approx([1.2, 1.68, 1.872, 1.9488, 1.97952], abs=1e-5)
    assert dw == pytest.approx([-120, -48, -19.2, -7.68, -3.072], rel=1e-5)
    assert loss == pytest.approx([30, 4.8, 0.768, 0.12288, 0.0196608], rel=1e-4)


@pytest.mark.cpu
def test_regression_from_csv(tmp_path: Path) -> None:
    program = example("csv_regression")
    program.write_csv(tmp_path / "data.csv")
    curves = []
    for swapped in (False, True):
        model, losses = program.train(tmp_path / "data.csv", swapped, 2000)
        curves.append(losses)
        assert model.weight.flatten().tolist() == pytest.approx([2, -3, 2], abs=1e-3)
        assert model.bias.item() == pytest.approx(0, abs=1e-3)
        assert model(program.QUESTIONS).flatten().tolist() == pytest.approx([-5, -3, -4, 9, 7], abs=1e-2)
    assert_same_curve(curves[1], curves[0])


@needs_sklearn
def test_regression_on_noisy_points() -> None:
    program = example("linear_regression")
    curves = [program.train(*program.noisy_points(), swapped, 300)[1] for swapped in (False, True)]
    assert_same_curve(curves[1], curves[0])
    assert curves[1][-1] < curves[1][0] / 10


def test_logistic_regression_of_eight_inputs() -> None:
    torch.manual_seed(0)
    x = torch.randn(759, 8)
    y = (torch.sigmoid(x @ torch.linspace(-1, 1, 8)) > torch.rand(759)).float().view(-1, 1)
    curves, accuracies = [], []
    for swapped in (False, True):
        torch.manual_seed(1)
        model, criterion = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid()), nn.BCELoss()
        if swapped:
            fastgrad.swap(model)
            fastgrad.swap(criterion)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(300):
            prediction = model(x)
            loss = criterion(prediction, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
        accuracies.append(F.mean(F.eq(F.ge(prediction, 0.5), y > 0.5).float()).item())
    assert_same_curve(curves[1], curves[0])
    assert accuracies[0] == accuracies[1] > 0.7
    assert curves[1][-1] < 0.55


@needs_sklearn
def test_logistic_regression_breast_cancer() -> None:
    program = example("logistic_regression")
    (theirs, native_accuracy), (ours, accuracy) = (program.train(swapped, 100) for swapped in (False, True))
    assert_same_curve(ours, theirs)
    assert accuracy == native_accuracy > 0.85
    assert ours[9] == pytest.approx(0.55, abs=0.1) and ours[99] == pytest.approx(0.26, abs=0.05)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
def test_mlp_classifier(optimizer: str) -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(64, 1, 28, 28), torch.randint(0, 10, (64,))
    curves = []
    for swapped in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
        criterion = nn.CrossEntropyLoss()
        if swapped:
            fastgrad.swap(model)
            fastgrad.swap(criterion)
        extra: dict[str, Any] = {"momentum": 0.9} if optimizer == "SGD" else {}
        step = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-2 if extra else 1e-4, **extra)
        losses = []
        for i in [0, 16, 32, 48] * 3:
            step.zero_grad()
            loss = criterion(model(images[i : i + 16]), labels[i : i + 16])
            loss.backward()
            step.step()
            losses.append(loss.item())
        curves.append(losses)
    # Adam and RMSprop divide by the root of a gradient near zero: the last bits of a gradient become visible.
    assert_same_curve(curves[1], curves[0], 1e-5 if optimizer == "SGD" else 2e-3)
    assert curves[1][8] < curves[1][0]  # of the same batch


@pytest.mark.cpu  # torch's random_split shuffles with a generator of the CPU, which a default device refuses
@needs_sklearn
def test_mlp_classifier_inference_loop() -> None:
    program = example("mlp_classifier")
    (theirs, native_accuracy), (ours, accuracy) = (program.train(swapped, 3) for swapped in (False, True))
    assert_same_curve(ours, theirs, 1e-4)
    assert accuracy == pytest.approx(native_accuracy, abs=0.01) and accuracy > 0.8


def test_mlp_regression() -> None:
    program = example("mlp_regression")
    _, theirs = program.train(False, 10)
    model, ours = program.train(True, 10)
    assert_same_curve(ours, theirs)
    assert program.train(True, 10)[1] == ours, "not the same bits on a second run"
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    native = program.Regressor()
    native.load_state_dict(torch.load(file, map_location="cpu"))
    x = torch.randn(5, 10)
    torch.testing.assert_close(model.to(x.device)(x), native(x))


@pytest.mark.parametrize("last_layer_only", [False, True])
def test_conv_net_one_step(last_layer_only: bool) -> None:
    program = example("conv_net")
    (a, theirs), (b, ours) = (program.step(swapped, last_layer_only) for swapped in (False, True))
    assert b == pytest.approx(a, rel=1e-6)
    torch.manual_seed(0)
    start = program.Net().state_dict()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name])
        moved = not torch.equal(ours[name], start[name])
        assert moved == (not last_layer_only or name.startswith("fc")), name


def test_losses_on_small_tensors() -> None:
    softmax = fastgrad.nn.Softmax(dim=0)(torch.tensor([2.0, 1.0, 0.1]))
    assert softmax.tolist() == pytest.approx([0.6590, 0.2424, 0.0986], abs=5e-5)
    assert softmax.tolist() == pytest.approx(
        [math.exp(x) / sum(map(math.exp, (2, 1, 0.1))) for x in (2, 1, 0.1)], abs=1e-6
    )
    loss = fastgrad.nn.CrossEntropyLoss()
    three = torch.tensor([2, 0, 1])
    for logits, target, expected in (
        ([[2.0, 1.0, 0.1]], torch.tensor([0]), 0.417030),
        ([[0.5, 2.0, 0.3]], torch.tensor([0]), 1.840616),
        ([[0.1, 0.2, 3.9], [1.2, 0.1, 0.3], [0.3, 2.2, 0.2]], three, 0.283422),
        ([[0.9, 0.2, 0.1], [0.1, 0.3, 1.5], [1.2, 0.2, 0.5]], three, 1.641845),
    ):
        assert loss(torch.tensor(logits), target).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", ["L1Loss", "SmoothL1Loss", "MSELoss", "BCELoss", "NLLLoss"])
def test_losses_in_all_reductions(name: str, reduction: str) -> None:
    input = torch.rand(6, 4) * 0.9 + 0.05
    target = torch.randint(0, 4, (6,)) if name == "NLLLoss" else torch.rand(6, 4)
    with Ops() as ops:
        ours = getattr(fastgrad.nn, name)(reduction=reduction)(input, target)
    assert ops.of_fastgrad()
    torch.testing.assert_close(ours, getattr(nn, name)(reduction=reduction)(input, target))


def test_tensor_arithmetic() -> None:
    a, b = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([2.0, 3.0])
    counts = torch.tensor([1, 2])
    for x, y in ((a, b), (a, 2), (3, a), (a, 0.5), (counts, b), (counts, 3), (counts, 1.5)):
        for name in ("add", "sub", "mul", "div", "eq", "ge", "gt", "lt", "le", "pow"):
            if name != "pow" or isinstance(x, torch.Tensor):
                first = x if isinstance(x, torch.Tensor) or name == "pow" else torch.tensor(x)
                theirs, ours = getattr(torch, name)(first, y), getattr(F, name)(first, y)
                assert ours.dtype == theirs.dtype
                torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert F.neg(a).tolist() == [[-1, 2], [-3, -4]] and F.abs(a).tolist() == [[1, 2], [3, 4]]
    assert F.sqrt(torch.tensor([4.0, 9.0])).tolist() == [2, 3]
    out = torch.empty(2, 2)
    assert F.add(a, b, out=out) is out and out.tolist() == [[3, 1], [5, 7]]
    x = a.clone()
    F.mul_(F.sub_(F.add_(x, 1), 2), 10)
    assert x.tolist() == [[0, -30], [20, 30]]


def test_reductions() -> None:
    results = example("reductions").run(F)
    assert results["sum"] == 8 and results["prod"] == 0 and results["argmax"] == 11
    assert results["mean"] == pytest.approx(0.8889, abs=5e-5) and results["std"] == pytest.approx(1.1667, abs=5e-5)
    assert results["sum(dim=0)"] == [2, 4, 2] and results["sum(dim=1)"] == [1, 4, 3]
    assert results["max(dim=0)"] == ([4, 3, 3, 5], [2, 1, 1, 2])
    assert results["max(dim=1)"] == ([2, 3, 5], [3, 1, 3])


def test_autograd_basics() -> None:
    results = example("autograd_basics").run(F)
    assert results["gradient of mean(2 (x + 2)^2)"] == pytest.approx([4, 16 / 3, 20 / 3])
    assert results["backward with a vector"] == pytest.approx([1.2, 16, 0.02])
    assert "second time" in str(results["second backward"])
    assert results["gradients accumulate"] == [3, 6, 9]
    assert results["requires_grad under no_grad"] is False and results["requires_grad of detach"] is False


def test_accuracy_of_predictions() -> None:
    logits = torch.tensor([[0.1, 2.0, 0.3], [1.5, 0.2, 0.1], [0.2, 0.9, 0.8], [0.0, 0.1, 0.2]])
    labels = torch.tensor([1, 0, 2, 2])
    predicted = F.argmax(logits, dim=1)
    assert predicted.tolist() == [1, 0, 1, 2]
    assert F.mean(F.eq(predicted, labels), dtype=torch.float32).item() == 0.75
    y, fit = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.1, 2.2, 3.5])
    squared = F.sum(F.pow(F.sub(y, fit), 2)), F.sum(F.pow(F.sub(y, F.mean(y)), 2))
    assert F.sub(1, F.div(*squared)).item() == pytest.approx(1 - 0.30 / (42 / 9), rel=1e-5)
