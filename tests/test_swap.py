"""fastgrad.swap and fastgrad.restore: what is swapped, what is left and why, what survives, verification."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import Ops
from torch import nn
from torch.nn.utils import parametrizations

import fastgrad


class Residual(nn.Module):
    """A layer reachable by two names, a function call, and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.act = nn.ReLU(inplace=True)
        self.note = "kept"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.sigmoid(self.again(self.act(self.first(x))))


class Scaled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def _kinds(layers: list[Any]) -> dict[str, str | None]:
    return {" = ".join(layer.names): layer.reason for layer in layers}


def test_swaps_every_layer_anywhere_and_restores() -> None:
    layers = {name: getattr(nn, name) for name in fastgrad.nn.__all__}
    made = {name: make(3, 3) if name == "Linear" else make() for name, make in layers.items()}
    model = nn.ModuleDict({"list": nn.ModuleList([nn.Sequential(made[name]) for name in layers])})
    report = fastgrad.swap(model)
    assert len(report.swapped) == len(layers) and not report.left
    for name, layer in made.items():
        assert type(layer) is getattr(fastgrad.nn, name)
    assert sorted(fastgrad.restore(model)) == sorted(f"list.{i}.0" for i in range(len(layers)))
    for name, layer in made.items():
        assert type(layer) is getattr(nn, name)
    assert fastgrad.restore(model) == []


def test_root_module_itself() -> None:
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    report = fastgrad.swap(criterion)
    assert type(criterion) is fastgrad.nn.CrossEntropyLoss and criterion.label_smoothing == 0.1
    assert report.swapped[0].names == ("",)
    assert "(the model itself)" in str(report)
    assert fastgrad.restore(criterion) == [""]
    assert type(criterion) is nn.CrossEntropyLoss


def test_what_survives() -> None:
    model = nn.Sequential(Residual(), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    block, last = model[0], model[2]
    calls: list[str] = []
    last.register_forward_pre_hook(lambda *_: calls.append("pre"))
    last.register_forward_hook(lambda *_: calls.append("post"))
    last.register_full_backward_hook(lambda *_: calls.append("backward"))
    last.register_buffer("extra", torch.ones(2))
    last.tag = {"any": "thing"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parameters, before = list(model.parameters()), dict(model.state_dict())

    fastgrad.swap(model)

    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert list(before) == list(model.state_dict())
    assert block.first is block.again and block.note == "kept"
    assert last.tag == {"any": "thing"} and not last.training and "extra" in dict(last.named_buffers())
    with Ops() as ops:
        model(torch.randn(3, 4)).sum().backward()
    assert {"linear", "relu_"} <= ops.of_fastgrad() and "aten.addmm" not in ops
    assert calls == ["pre", "post", "backward"]
    weight = last.weight.clone()
    optimizer.step()
    assert not torch.equal(last.weight, weight)


def test_shared_layers_are_reported_once_with_all_names() -> None:
    report = fastgrad.swap(Residual())
    assert _kinds(report.swapped) == {"first = again": None, "act": None}
    assert "first = again" in str(report)


def _own_forward() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no kernel": (lambda: nn.Conv2d(1, 1, 1), "no fastgrad layer"),
    "subclass": (lambda: Scaled(2, 2), "its own class, derived from Linear"),
    "parametrized": (lambda: parametrizations.weight_norm(nn.Linear(2, 2)), "parametrized"),
    "forward on the instance": (_own_forward, "has a forward of its own, set on the instance"),
    "complex": (lambda: nn.Linear(2, 2, dtype=torch.complex64), "no kernels for torch.complex64"),
    "lazy": (lambda: nn.LazyLinear(2), "not initialized yet: run it once, then swap"),
    "swapped before": (lambda: fastgrad.nn.Linear(2, 2), "already fastgrad's"),
    "TorchScript": (lambda: torch.jit.script(nn.Linear(2, 2)), "a TorchScript module"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", LEFT)
def test_left_alone_and_reported(what: str) -> None:
    make, reason = LEFT[what]
    layer = make()
    kind = type(layer)
    report = fastgrad.swap(nn.Sequential(layer))
    assert not report.swapped
    assert _kinds(report.left)["0"] == reason
    assert type(layer) is kind
    assert reason in str(report)


def test_layers_on_a_device_without_kernels_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = sys.modules["fastgrad.swap"]
    monkeypatch.setattr(swap, "_DEVICES", ("meta",))
    reason = f"no kernels for {torch.get_default_device().type}"
    report = fastgrad.swap(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert not report.swapped and _kinds(report.left) == {"0": reason, "1": reason}
    assert fastgrad.swap(nn.ReLU()).swapped, "nothing is known of its device"


def test_containers_and_users_modules_are_no_layers() -> None:
    report = fastgrad.swap(nn.Sequential(nn.ModuleList([nn.Identity()]), Residual()))
    assert not report.left


def test_weight_norm_by_hooks_is_swapped() -> None:
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    expected = layer(x)
    report = fastgrad.swap(layer, verify=x)
    assert type(layer) is fastgrad.nn.Linear and len(report.swapped) == 1
    torch.testing.assert_close(layer(x), expected)


def test_swap_then_parametrize_and_restore() -> None:
    layer = nn.Linear(2, 2)
    fastgrad.swap(layer)
    parametrizations.weight_norm(layer)
    with Ops() as ops:
        layer(torch.randn(1, 2))
    assert "linear" in ops.of_fastgrad()
    assert fastgrad.restore(layer) == [""]
    with Ops() as ops:
        layer(torch.randn(1, 2))
    assert not ops.of_fastgrad()
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear
    assert fastgrad.restore(layer) == []


def test_a_compiled_model_sees_the_swap() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(2, 3)
    expected = compiled(x)
    fastgrad.swap(compiled)
    with Ops() as ops:
        torch.testing.assert_close(compiled(x), expected)
    assert {"linear", "relu"} <= ops.of_fastgrad()


def test_same_training_as_native() -> None:
    curves = []
    for swapped in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3), nn.LogSoftmax(1))
        loss = nn.NLLLoss()
        if swapped:
            fastgrad.swap(model)
            fastgrad.swap(loss)
        optimizer = torch.optim.Adam(model.parameters())
        x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
        curve = []
        for _ in range(20):
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            curve.append(value.item())
        curves.append(curve)
    torch.testing.assert_close(*map(torch.tensor, curves))


def _verified_model() -> nn.Sequential:
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Softmax(1))


def test_verify_leaves_no_trace() -> None:
    model = _verified_model()
    x = torch.randn(6, 4)
    model(x.clone()).sum().backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [(p, p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    random, sample = torch.get_rng_state(), x.clone()

    report = fastgrad.swap(model, verify=x)

    differences = report.differences
    assert differences is not None and differences.gradient is not None
    assert differences.output <= 1e-6 and differences.gradient <= 1e-5
    assert differences.output_size > 0 and differences.gradient_size
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(x, sample) and x.grad is None
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    for parameter, grad, values in grads:
        assert parameter.grad is grad and torch.equal(grad, values)
    assert "largest difference of outputs" in str(report)
    with torch.no_grad():  # nor does the caller's mode matter
        fastgrad.restore(model)
        again = fastgrad.swap(model, verify=x).differences
    assert again is not None and again.gradient is not None


def test_verify_under_a_default_device_that_is_not_the_models() -> None:
    """The random gradient is drawn on the CPU, where its generator is."""
    model, x = _verified_model(), torch.randn(6, 4)
    with torch.device("meta"):
        differences = fastgrad.swap(model, verify=x).differences
    assert differences is not None and differences.output <= 1e-6 and differences.gradient_size


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor, flag: bool = True) -> dict[str, Any]:
        return {"sum": self.layer(a) + b, "parts": [b, (self.layer(b),)] if flag else []}


@pytest.mark.parametrize("sample", ["tuple", "dict"])
def test_verify_takes_arguments(sample: str) -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    given: Any = (a, b, False) if sample == "tuple" else {"b": b, "a": a}
    report = fastgrad.swap(Pair(), verify=given)
    assert report.differences is not None and report.differences.output <= 1e-6


def test_verify_a_loss_and_a_frozen_model() -> None:
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    report = fastgrad.swap(nn.CrossEntropyLoss(), verify=(logits, target))
    assert report.differences is not None and report.differences.gradient_of == "input 0"
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)).requires_grad_(False)
    differences = fastgrad.swap(tokens, verify=torch.tensor([1, 4])).differences
    assert differences is not None and differences.gradient is None and "no gradients" in str(differences)


def test_verify_finds_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastgrad.nn.Linear, "forward", lambda self, x: torch.nn.functional.linear(x, 1.5 * self.weight))
    model = nn.Sequential(nn.Linear(3, 2))
    differences = fastgrad.swap(model, verify=torch.ones(1, 3)).differences
    assert differences is not None and differences.gradient is not None
    expected = (0.5 * model[0].weight.sum(1) - model[0].bias).abs().max().item()
    assert differences.output == pytest.approx(expected, rel=1e-5)
    assert differences.gradient == float("inf") and differences.gradient_of == "0.bias"


def test_verify_undoes_a_swap_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: nn.Module, input: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no such dtype")

    monkeypatch.setattr(fastgrad.nn.Sigmoid, "forward", refuse)
    model = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())
    with pytest.raises(NotImplementedError, match="no such dtype"):
        fastgrad.swap(model, verify=torch.randn(1, 3))
    assert [type(layer) for layer in model] == [nn.Linear, nn.Sigmoid]


def test_special_values_compare() -> None:
    from fastgrad._verify import Evaluation, compare

    nan, inf = float("nan"), float("inf")

    def evaluation(*values: float) -> Evaluation:
        return Evaluation([torch.tensor(values)], {})

    assert compare(evaluation(nan, inf, 1), evaluation(nan, inf, 3)).output == 2
    assert compare(evaluation(nan), evaluation(1)).output == inf
    assert compare(evaluation(-inf), evaluation(inf)).output == inf
    assert compare(evaluation(), evaluation()).output == 0


@pytest.mark.parametrize("function", [fastgrad.swap, fastgrad.restore])
@pytest.mark.parametrize("model", [None, {}, "model", nn.Linear, [nn.Linear(1, 1)]])
def test_no_model(function: Callable[[Any], object], model: object) -> None:
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\): argument 'model' must be a torch.nn.Module"):
        function(model)


@pytest.mark.parametrize("sample", [[torch.ones(1)], 3, "x", {1, 2}])
def test_bad_sample(sample: object) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match="argument 'verify' must be a sample input"):
        fastgrad.swap(model, verify=sample)
    assert type(model) is nn.Linear


def test_report_prints_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print(fastgrad.swap(nn.Sequential(*(nn.Linear(1, 1) for _ in range(9)), nn.Conv2d(1, 1, 1))))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["Linear"], ["Conv2d"])]
    assert rows[0][:2] == ["Linear", "9"] and "3 more" in out
    assert rows[1] == ["Conv2d", "1", "9", "left:", "no", "fastgrad", "layer"]
    assert "swapped" in str(fastgrad.SwapReport([fastgrad.swap(nn.ReLU()).swapped[0]]))
    assert str(fastgrad.SwapReport())  # of a model without layers


def test_a_complex_model_stays_torchs() -> None:
    model = nn.Sequential(nn.Linear(3, 3, dtype=torch.complex64), nn.Tanh())
    report = fastgrad.swap(model)
    assert not report.swapped and len(report.left) == 2
    model(torch.randn(2, 3, dtype=torch.complex64))


def test_what_cannot_be_compared_is_not_swapped() -> None:
    layer = nn.Linear(3, 3, device="meta")
    with pytest.raises(RuntimeError):
        fastgrad.swap(layer, verify=torch.randn(2, 3, device="meta"))
    assert type(layer) is nn.Linear


def test_a_module_inside_itself() -> None:
    inner = nn.Linear(2, 2)
    model = nn.Sequential(inner)
    inner.parent = model
    assert [layer.names for layer in fastgrad.swap(model).swapped] == [("0",)]
    assert fastgrad.restore(model) == ["0"]


def test_restore_leaves_a_copy_as_it_is() -> None:
    layer = nn.Linear(2, 2)
    fastgrad.swap(layer)
    parametrizations.weight_norm(layer)
    copied = copy.deepcopy(layer)
    fastgrad.restore(layer)
    assert isinstance(copied, fastgrad.nn.Linear) and not isinstance(layer, fastgrad.nn.Linear)
