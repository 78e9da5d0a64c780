"""fastgrad.nn against torch.nn: constructor, state, repr, values, gradients; the work is done by fastgrad's kernels."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checks import CHECKS_VALUES, PRETENDED
from models import Ops

import fastgrad

Arguments = tuple[torch.Tensor, ...]


def _logits() -> torch.Tensor:
    return torch.randn(5, 4)


def _probabilities() -> torch.Tensor:
    return torch.rand(5, 4) * 0.98 + 0.01


def _classes() -> torch.Tensor:
    return torch.randint(0, 4, (5,))


# Kernels of torch's that do the work of a layer, forward or backward.
THEIRS = re.compile(r"aten\..*(linear|mm|softmax|entropy|loss|sigmoid|tanh|relu|threshold)")
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.25])

# Class, constructor arguments, the inputs of forward, and the ops that must have run.
CASES: list[tuple[str, dict[str, Any], Callable[[], Arguments], str]] = [
    ("Linear", {"in_features": 4, "out_features": 3}, lambda: (_logits(),), "linear"),
    ("Linear", {"in_features": 4, "out_features": 3, "bias": False}, lambda: (_logits(),), "linear"),
    ("Linear", {"in_features": 4, "out_features": 1}, lambda: (torch.randn(2, 3, 4),), "linear"),
    ("Sigmoid", {}, lambda: (_logits(),), "sigmoid"),
    ("Tanh", {}, lambda: (_logits(),), "tanh"),
    ("ReLU", {}, lambda: (_logits(),), "relu"),
    ("ReLU", {"inplace": True}, lambda: (_logits(),), "relu_"),
    ("Softmax", {"dim": 1}, lambda: (_logits(),), "softmax"),
    ("Softmax", {"dim": 0}, lambda: (_logits(),), "softmax"),
    ("LogSoftmax", {"dim": -1}, lambda: (_logits(),), "log_softmax"),
    ("BCELoss", {}, lambda: (_probabilities(), torch.rand(5, 4)), "binary_cross_entropy"),
    ("BCELoss", {"weight": WEIGHT, "reduction": "sum"}, lambda: (_probabilities(), torch.rand(5, 4)), "binary_cross_"),
    ("BCEWithLogitsLoss", {}, lambda: (_logits(), torch.rand(5, 4)), "binary_cross_entropy_with_logits"),
    (
        "BCEWithLogitsLoss",
        {"weight": WEIGHT, "pos_weight": WEIGHT + 1, "reduction": "none"},
        lambda: (_logits(), torch.rand(5, 4)),
        "binary_cross_entropy_with_logits",
    ),
    ("CrossEntropyLoss", {}, lambda: (_logits(), _classes()), "cross_entropy"),
    ("CrossEntropyLoss", {"label_smoothing": 0.1}, lambda: (_logits(), _logits().softmax(1)), "cross_entropy"),
    (
        "CrossEntropyLoss",
        {"weight": WEIGHT, "ignore_index": 1, "reduction": "none"},
        lambda: (torch.randn(5, 4, 3), torch.randint(0, 4, (5, 3))),
        "cross_entropy",
    ),
    ("NLLLoss", {}, lambda: (_logits().log_softmax(1), _classes()), "nll_loss"),
    ("NLLLoss", {"weight": WEIGHT, "ignore_index": 2, "reduction": "sum"}, lambda: (_logits(), _classes()), "nll_loss"),
    ("MSELoss", {}, lambda: (_logits(), _logits()), "mse_loss"),
    ("MSELoss", {"reduction": "none"}, lambda: (_logits(), _logits()), "mse_loss"),
    ("L1Loss", {"reduction": "sum"}, lambda: (_logits(), _logits()), "l1_loss"),
    ("SmoothL1Loss", {}, lambda: (_logits(), _logits()), "smooth_l1_loss"),
    ("SmoothL1Loss", {"beta": 0.3, "reduction": "sum"}, lambda: (_logits(), _logits()), "smooth_l1_loss"),
]
IDS = [f"{name}-{'-'.join(kwargs)}" for name, kwargs, *_ in CASES]


def _pair(name: str, kwargs: dict[str, Any]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same layer of fastgrad and of torch, made from the same seed."""
    modules = []
    for namespace in (fastgrad.nn, torch.nn):
        torch.manual_seed(7)
        modules.append(getattr(namespace, name)(**kwargs))
    return modules[0], modules[1]


def test_every_layer_is_tested() -> None:
    assert {name for name, *_ in CASES} == set(fastgrad.nn.__all__)


@pytest.mark.parametrize("name", fastgrad.nn.__all__)
def test_subclass_that_changes_only_forward(name: str) -> None:
    ours, theirs = getattr(fastgrad.nn, name), getattr(torch.nn, name)
    assert ours.__bases__ == (theirs,)
    assert {key for key in vars(ours) if not key.startswith("__")} == {"forward"}
    assert list(inspect.signature(ours.forward).parameters) == list(inspect.signature(theirs.forward).parameters)
    assert ours.__doc__ != theirs.__doc__ and ours.__doc__


@pytest.mark.parametrize(("name", "kwargs", "inputs", "op"), CASES, ids=IDS)
def test_as_torch(name: str, kwargs: dict[str, Any], inputs: Callable[[], Arguments], op: str) -> None:
    ours, theirs = _pair(name, kwargs)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    arguments = inputs()
    results = []
    for module in (ours, theirs):
        leaf = arguments[0].clone().requires_grad_()
        with Ops() as ops:
            out = module(leaf.clone(), *arguments[1:])
            out.sum().backward()
        used = ops.of_fastgrad()
        assert (module is ours) == any(used_op.startswith(op) for used_op in used), used
        if module is ours:
            assert not [used_op for used_op in ops.names if THEIRS.match(used_op)]
        results.append((out.detach(), leaf.grad, *(p.grad for p in module.parameters())))
    for mine, reference in zip(*results, strict=True):
        assert mine is not None and reference is not None
        torch.testing.assert_close(mine, reference)


@pytest.mark.skipif(PRETENDED, reason="torch's storages of a pretended GPU are not copied in Python")
@pytest.mark.parametrize(("name", "kwargs", "inputs", "op"), CASES, ids=IDS)
def test_copies_and_pickles(name: str, kwargs: dict[str, Any], inputs: Callable[[], Arguments], op: str) -> None:
    ours, _ = _pair(name, kwargs)
    arguments = inputs()
    expected = ours(*(x.clone() for x in arguments))
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is type(ours)
        assert torch.equal(other(*(x.clone() for x in arguments)), expected)


def test_relu_in_place_overwrites_its_input() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert fastgrad.nn.ReLU(inplace=True)(x) is x
    assert x.tolist() == [0.0, 2.0]
    assert fastgrad.nn.ReLU()(torch.tensor([-1.0])) is not x


@pytest.mark.parametrize("name", ("Softmax", "LogSoftmax"))
def test_softmax_chooses_a_dimension_as_torch_does(name: str) -> None:
    ours, theirs = _pair(name, {})
    for shape in ((4,), (3, 4), (2, 3, 4), (2, 3, 4, 5)):
        x = torch.randn(shape)
        with pytest.warns(UserWarning, match="Implicit dimension choice"):
            y = ours(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(y, theirs(x))


@pytest.mark.parametrize("name", ("MSELoss", "BCELoss", "CrossEntropyLoss"))
def test_legacy_reduction_arguments(name: str) -> None:
    with pytest.warns(UserWarning, match="deprecated"):
        ours, theirs = _pair(name, {"size_average": False})
    assert ours.reduction == theirs.reduction == "sum"


def test_bad_input_as_torch() -> None:
    with pytest.raises(RuntimeError):
        fastgrad.nn.Linear(4, 3)(torch.randn(2, 5))
    if CHECKS_VALUES:
        with pytest.raises(IndexError):
            fastgrad.nn.CrossEntropyLoss()(torch.randn(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="not a valid value for reduction"):
        fastgrad.nn.MSELoss(reduction="average")(torch.randn(2), torch.randn(2))
    with pytest.raises(IndexError):
        fastgrad.nn.Softmax(dim=2)(torch.randn(2, 2))


def test_training_under_compile_matches_eager() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(fastgrad.nn.Linear(4, 8), fastgrad.nn.Tanh(), fastgrad.nn.Linear(8, 3))
    criterion = fastgrad.nn.CrossEntropyLoss()
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return criterion(model(x), y)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(f(x, y), list(model.parameters())) for f in (loss, compiled)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
