"""Arguments that torch takes, or refuses, beyond the ordinary ones of an op's own tests."""

from __future__ import annotations

import warnings

import pytest
import torch

import fastgrad.functional as F


@pytest.mark.parametrize("name", ["amax", "amin"])
def test_a_dim_of_none_is_all(name):
    x = torch.randn(3, 4)
    for arguments in ((None,), (None, True), ((), True)):
        expected = getattr(torch, name)(x, *arguments)
        assert torch.equal(getattr(F, name)(x, *arguments), expected)


@pytest.mark.parametrize("name", ["sum", "prod", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_out_decides_the_dtype(name, dtype):
    x = torch.rand(5, 7)
    out, expected = torch.empty(5, dtype=dtype), torch.empty(5, dtype=dtype)
    getattr(torch, name)(x, 1, out=expected)
    assert getattr(F, name)(x, 1, out=out) is out
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda f, out: f.sum(torch.ones(2, 3), 1, out=out),
        lambda f, out: f.amax(torch.ones(2, 3), 1, out=out),
        lambda f, out: f.argmax(torch.ones(2, 3), 1, out=out.long()),
        lambda f, out: f.max(torch.ones(2, 3), 1, out=(out, out.long())),
        lambda f, out: f.var(torch.ones(2, 3), 1, out=out),
    ],
    ids=["sum", "amax", "argmax", "max", "var"],
)
def test_a_resized_out_is_a_python_warning(call):
    for module in (torch, F):
        with pytest.warns(UserWarning, match="An output with one or more elements was resized"):
            call(module, torch.empty(7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="resized"):
            call(F, torch.empty(7))
        call(F, torch.empty(0))


@pytest.mark.parametrize("name", ["max", "min"])
def test_extremes_take_one_form_of_arguments(name):
    x, op = torch.ones(2, 3), getattr(F, name)
    for wrong in (lambda: op(x, keepdim=True), lambda: op(x, 0, other=x), lambda: op(x, other=x, keepdim=True)):
        with pytest.raises(TypeError, match="takes one of other and dim"):
            wrong()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_a_number_is_rounded_before_a_comparison(name, dtype):
    """To the tensor's dtype, as in torch: 0.1 equals bfloat16(0.1)."""
    x = torch.tensor([0.1, 0.3, 1 / 3, -2.7, 65504.0]).to(dtype)
    for number in (0.1, 0.3, 1 / 3, -2.7, 1e30):
        assert torch.equal(getattr(F, name)(x, number), getattr(torch, name)(x, number))
        assert torch.equal(getattr(F, name)(x, torch.tensor(number)), getattr(torch, name)(x, torch.tensor(number)))


@pytest.mark.parametrize("exponent", [0.5, -0.5, torch.tensor(0.5), torch.tensor(-0.5), torch.tensor([0.5])], ids=str)
def test_a_number_of_one_half_is_a_root_and_a_tensor_is_not(exponent):
    x = torch.tensor([float("-inf"), -0.0, 0.0, 4.0, float("inf"), -2.0], requires_grad=True)
    results = []
    for op in (F.pow, torch.pow):
        y = op(x, exponent)
        results.append((y.detach(), torch.autograd.grad(y.sum(), x)[0]))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        assert torch.equal(ours.signbit() & ~ours.isnan(), theirs.signbit() & ~theirs.isnan())


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("correction", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("name", ["var", "std"])
def test_gradients_with_any_correction(name, correction):
    """Also of more than there are elements, where the result is infinite."""
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    grads = [
        torch.autograd.grad(getattr(f, name)(x, 1, correction=correction), x, torch.ones(2, dtype=torch.float64))[0]
        for f in (F, torch)
    ]
    torch.testing.assert_close(*grads, equal_nan=True)
