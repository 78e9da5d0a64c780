"""What sees fastgrad from above: __torch_function__, torch.fx, fake tensors, torch.export, torch.compile."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fastgrad
import fastgrad.functional as F


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()


class Logged(torch.Tensor):
    """A subclass as a user may write it: torch's own __torch_function__ keeps its type."""


OVERRIDABLE = {
    "relu": lambda f, x: f.relu(x),
    "add": lambda f, x: f.add(x, 2.0),
    "add, reversed": lambda f, x: f.mul(x.abs(), x),
    "sum": lambda f, x: f.sum(x, 0),
    "matmul": lambda f, x: f.matmul(x, x),
    "softmax": lambda f, x: f.softmax(x, 1),
    "max": lambda f, x: f.max(x, 1)[0],
    "max of two": lambda f, x: f.max(x, x),
    "var": lambda f, x: f.var(x, 1),
}


@pytest.mark.parametrize("case", OVERRIDABLE)
def test_a_subclass_keeps_its_type(case):
    x = torch.randn(3, 3)
    op = OVERRIDABLE[case]
    result = op(F, x.as_subclass(Logged))
    assert type(result) is Logged
    assert torch.equal(result.as_subclass(torch.Tensor), op(F, x))


def test_a_mode_sees_the_call():
    class Names(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    seen: list[str] = []
    with Names():
        y = F.add(torch.ones(2), 1, alpha=2)
        fastgrad.nn.Linear(2, 2)(y)
    assert y.tolist() == [3.0, 3.0]
    assert [name for name in seen if name in ("add", "linear")] == ["add", "linear"]


class TakesAll:
    """No tensor, but what an argument may be all the same."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func.__name__, args[1:], kwargs


def test_anything_with_torch_function_has_the_call():
    assert F.sub(TakesAll(), 3, alpha=2) == ("sub", (3,), {"alpha": 2})
    assert F.mul(2, TakesAll())[0] == "mul"


@pytest.mark.parametrize(
    "call",
    [lambda: F.add(), lambda: F.relu(torch.ones(1), 3, 4), lambda: F.sum(torch.ones(1), unknown=1)],
    ids=["too few", "too many", "unknown name"],
)
def test_wrong_arguments_get_one_line(call):
    with pytest.raises(TypeError, match=r"^\w+\(\) received an invalid combination of arguments - got \([^\n]*\)$"):
        call()


def test_out_is_looked_at_too():
    values, indices = torch.empty(3).as_subclass(Logged), torch.empty(3, dtype=torch.long)
    x = torch.randn(3, 4)
    F.max(x, 1, out=(values, indices))
    assert torch.equal(values.as_subclass(torch.Tensor), x.max(1)[0])


@pytest.mark.parametrize("op", [lambda x: F.max(x, 1)[0], lambda x: F.max(x, x), lambda x: F.std(x, 1, keepdim=True)])
def test_fx_traces_reductions(op):
    x = torch.randn(3, 4)
    assert torch.equal(torch.fx.symbolic_trace(op)(x), op(x))


def test_fx_traces_a_swapped_model():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Softmax(1))
    x = torch.randn(3, 4)
    fastgrad.swap(model)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    called = {node.target for node in traced.graph.nodes if node.op == "call_function"}
    assert {F.linear, F.relu} <= called


NUMBERS = {
    "float": lambda f, x: f.mul(f.add(x, 1.5), 2),
    "int": lambda f, x: f.add(x, 3),
    "bool": lambda f, x: f.mul(x, True),
    "first": lambda f, x: f.div(1.0, f.add(x, 5.0)),
    "alpha": lambda f, x: f.sub(x, 0.1, alpha=3),
    "power": lambda f, x: f.pow(x, 2),
    "compare": lambda f, x: f.gt(x, 0.1),
}
INPUTS = {
    "float32": torch.randn(5),
    "bfloat16": torch.randn(5).bfloat16(),
    "uint8": torch.tensor([2, 4, 7], dtype=torch.uint8),
    "int64": torch.tensor([2, -4, 7]),
    "0-d": torch.tensor(1.25),
    "0-d half": torch.tensor(1.25, dtype=torch.float16),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_promote_in_every_kind_of_trace(case, name):
    op, x = NUMBERS[case], INPUTS[name]
    expected = op(F, x)
    with FakeTensorMode() as mode:
        fake = op(F, mode.from_tensor(x))
    assert (fake.dtype, fake.shape) == (expected.dtype, expected.shape)
    torch.testing.assert_close(make_fx(lambda t: op(F, t))(x)(x), expected, rtol=0, atol=0)
    compiled = torch.compile(lambda t: op(F, t), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("number", [-1, 300, 1000])
def test_a_compiled_integer_beyond_the_dtype(number):
    x = torch.tensor([2, 4], dtype=torch.uint8)
    for op in (F.div, F.add, F.mul):
        compiled = torch.compile(lambda t, op=op: op(t, number), backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x), op(x, number))


NARROW = [
    (lambda f, x: f.mul(x, 1e6), torch.tensor(1e-4, dtype=torch.half)),
    (lambda f, x: f.div(-1, x), torch.tensor(3, dtype=torch.uint8)),
    (lambda f, x: f.add(x, 300), torch.tensor(3, dtype=torch.int8)),
    (lambda f, x: f.mul(x, 1e39), torch.tensor([1, 2])),
    (lambda f, x: f.mul(x, 1e39), torch.tensor(1.0)),
    (lambda f, x: f.pow(x, 0.5), torch.tensor([4.0, -0.0, -torch.inf, -2.0])),
    (lambda f, x: f.pow(x, -0.5), torch.tensor([4.0, -0.0, torch.inf, -2.0])),
]


@pytest.mark.parametrize(("op", "x"), NARROW)
def test_a_compiled_number_beyond_the_dtype(op, x):
    """It is not rounded, or wrapped, before the arithmetic."""
    compiled = torch.compile(lambda t: op(F, t), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), op(torch, x), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(op(F, x), op(torch, x), rtol=0, atol=0, equal_nan=True)


def test_compiled_powers_of_integers_are_checked():
    for run in (lambda f: f, lambda f: torch.compile(f, backend="aot_eager", fullgraph=True)):
        with pytest.raises(Exception, match="Integers to negative integer powers are not allowed"):
            run(lambda t: F.pow(t, -1))(torch.tensor([1, 2]))


@pytest.mark.parametrize(("count", "scale"), [(40_000_000, 65504.0), (1_000_000, 32768.0)])
def test_compiled_backward_of_a_long_half_precision_mean(count, scale):
    x = torch.ones(1, dtype=torch.half).expand(count).detach().requires_grad_()
    incoming = torch.tensor(scale, dtype=torch.half)
    (expected,) = torch.autograd.grad(torch.mean(x), x, incoming)
    for mean in (F.mean, torch.compile(F.mean, backend="aot_eager", fullgraph=True)):
        (grad,) = torch.autograd.grad(mean(x), x, incoming)
        torch.testing.assert_close(grad[:3], expected[:3], rtol=2**-10, atol=0)


def test_an_alpha_that_is_a_size():
    compiled = torch.compile(lambda x: F.add(x, x, alpha=x.shape[0]), backend="aot_eager", dynamic=True, fullgraph=True)
    for n in (3, 5):
        x = torch.ones(n, requires_grad=True)
        (grad,) = torch.autograd.grad(compiled(x).sum(), x)
        assert torch.equal(grad, torch.full((n,), 1.0 + n))


def test_fake_tensors_outside_of_their_mode():
    fake = FakeTensorMode().from_tensor(torch.ones(3))
    assert F.mul(fake, 2.0).shape == (3,)
    assert F.add(fake, 2, alpha=2).dtype == torch.float32


COMPILED_BACKWARD = {
    "mul by a number": lambda x: F.mul(x, 2.0),
    "add a number": lambda x: F.add(x, 2.0),
    "0-d operand": lambda x: F.mul(x, x.sum()),
    "sum of 0-d": lambda x: F.sum(x.sum()),
    "max": lambda x: F.max(x, 0)[0],
    "relu_": lambda x: F.relu_(x * 1),
    "mul_": lambda x: F.mul_(x * 1, x),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.tensor([1, 0, 2])),
}


@pytest.mark.parametrize("case", COMPILED_BACKWARD)
def test_compiled_autograd(case):
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    op = COMPILED_BACKWARD[case]
    (expected,) = torch.autograd.grad(op(x).sum(), x)
    y = op(x).sum()
    with compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
        y.backward()
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    class Model(torch.nn.Module):
        def forward(self, x):
            return F.add(F.mul(x, 2.0), 1)

    x = torch.randn(3, 4)
    program = torch.export.export(Model(), (x,), strict=strict)
    assert torch.equal(program.module()(x), 2 * x + 1)


@pytest.mark.parametrize(
    "op",
    [
        lambda f, x: f.add(input=x, other=x),
        lambda f, x: f.add(x, other=2.0),
        lambda f, x: f.relu(input=x),
        lambda f, x: f.add(input=x, other=1, alpha=3),
    ],
    ids=["both", "number", "one", "alpha"],
)
def test_compiled_keyword_arguments(op):
    x = torch.randn(4)
    compiled = torch.compile(lambda t: op(F, t), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), op(torch, x))


def test_compiled_in_place_keyword():
    def op(t):
        h = t * 1
        return F.add_(h, other=2.0)

    x = torch.randn(4)
    assert torch.equal(torch.compile(op, backend="aot_eager", fullgraph=True)(x), x + 2)


GRADIENTS = {
    "mean": lambda f, x: f.mean(x, 0),
    "var": lambda f, x: f.var(x, 0),
    "std": lambda f, x: f.std(x, 0),
    "max": lambda f, x: f.max(x, 0)[0],
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_one_graph_for_any_number_of_rows(case):
    op = GRADIENTS[case]
    compiled = torch.compile(lambda t: op(F, t).sum(), backend="aot_eager", fullgraph=True)
    for rows in (4, 5, 9):
        x = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
        torch._dynamo.mark_dynamic(x, 0)  # raises where a size is taken for a constant
        (grad,) = torch.autograd.grad(compiled(x), x)
        (expected,) = torch.autograd.grad(op(torch, x).sum(), x)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("loss", ["mse_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"])
def test_export_of_a_loss_with_a_dynamic_batch(loss):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = fastgrad.nn.Linear(3, 2)

        def forward(self, x, target):
            return getattr(F, loss)(self.layer(x), target)

    model, batch = Model(), torch.export.Dim("batch")
    program = torch.export.export(
        model, (torch.randn(8, 3), torch.rand(8, 2)), dynamic_shapes={"x": {0: batch}, "target": {0: batch}}
    )
    x, target = torch.randn(5, 3), torch.rand(5, 2)
    torch.testing.assert_close(program.module()(x, target), model(x, target))


def test_compiled_deprecated_choices():
    x = torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.compile(F.softmax, backend="eager", fullgraph=True)(x), F.softmax(x, 1))
        loss = torch.compile(F.mse_loss, backend="eager", fullgraph=True)
        assert torch.equal(loss(x, x[:1]), F.mse_loss(x, x[:1]))


SCALARS = [np.float32(1.5), np.float64(1.5), np.int64(3), np.int8(3), np.float16(2), np.longdouble(2)]


@pytest.mark.parametrize("number", SCALARS, ids=lambda n: type(n).__name__)
def test_numpy_scalars(number):
    for x in (torch.randn(3), torch.arange(3)):
        torch.testing.assert_close(F.mul(x, number), torch.mul(x, number), rtol=0, atol=0)
        torch.testing.assert_close(F.add(x.double(), x, alpha=number), torch.add(x.double(), x, alpha=number))


def test_numbers_that_do_not_fit():
    with pytest.raises(OverflowError):
        F.mul(torch.ones(2), 2**70)
    for number in (1j, np.complex64(1j), np.clongdouble(1)):
        with pytest.raises(NotImplementedError, match="complex"):
            F.mul(torch.ones(2), number)
    for wrong in (np.ones(3), "1", None, [1]):
        with pytest.raises(TypeError, match="must be Tensor"):
            F.mul(torch.ones(2), wrong)
    with pytest.raises(TypeError, match="alpha"):  # whose gradient would be lost
        F.add(torch.ones(2), 1, alpha=torch.tensor(2.0, requires_grad=True))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev], ids=["grad", "jacrev"])
@pytest.mark.parametrize(
    ("op", "name"),
    [(lambda x: F.sum(F.mul(x, x)), "mul"), (lambda x: F.mse_loss(x, 2 * x), "mse_loss")],
    ids=["mul", "mse_loss"],
)
def test_transforms_of_functions_name_the_op(transform, op, name):
    with pytest.raises(NotImplementedError, match=f"fastgrad::{name} does not support gradients inside torch.func"):
        transform(op)(torch.randn(3))
