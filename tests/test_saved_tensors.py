"""What an op keeps for backward: no more than the wanted gradients take, and never memory that it has overwritten."""

from __future__ import annotations

import pytest
import torch

import fastgrad.functional as F


@pytest.mark.parametrize("view", [lambda h: h, lambda h: h[:], lambda h: h.view(3)], ids=["itself", "slice", "view"])
@pytest.mark.parametrize("name", ["mul_", "div_"])
def test_in_place_with_an_operand_that_shares_memory(name, view):
    """torch raises in backward; the gradient there is that of the same without memory in common."""
    x = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    h = x * 1
    getattr(F, name)(h, view(h))
    (grad,) = torch.autograd.grad(h.sum(), x)
    torch.testing.assert_close(grad, 2 * x.detach() if name == "mul_" else torch.zeros(3, dtype=torch.float64))

    h = x * 1
    getattr(F, name)(h, view(h).detach())
    (grad,) = torch.autograd.grad(h.sum(), x)
    torch.testing.assert_close(grad, x.detach() if name == "mul_" else 1 / x.detach())


def test_in_place_with_a_part_of_the_same_memory():
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    h = x * 1
    F.mul_(h[0], h[1])
    (grad,) = torch.autograd.grad(h.sum(), x)
    torch.testing.assert_close(grad, torch.stack([x[1], x[0] + 1]).detach())


def constant(n):
    return torch.full((n,), 0.5)


# What may be overwritten afterwards, as in torch: the result is made of h, and then h, or the result, is modified.
MODIFIED_AFTERWARDS = {
    "mul by a number": (lambda h: F.mul(h, 3.0), "input"),
    "div by a number": (lambda h: F.div(h, 3.0), "input"),
    "mul by a constant": (lambda h: F.mul(h, constant(4)), "input"),
    "div by a constant": (lambda h: F.div(h, constant(4)), "input"),
    "add": (lambda h: F.add(h, h), "input"),
    "pow": (lambda h: F.pow(h, 2.0), "result"),
    "pow of a tensor": (lambda h: F.pow(h, constant(4)), "result"),
    "max": (lambda h: F.max(h, 0)[0], "result"),
    "min": (lambda h: F.min(h, 0)[0], "input"),
    "max, the input": (lambda h: F.max(h, 0)[0], "input"),
    "var": (lambda h: F.var(h, 0), "result"),
    "prod": (lambda h: F.prod(h, 0), "result"),
    "sum": (lambda h: F.sum(h, 0), "input"),
}


@pytest.mark.parametrize("case", MODIFIED_AFTERWARDS)
def test_what_backward_does_not_need_may_be_modified(case):
    op, which = MODIFIED_AFTERWARDS[case]
    x = (torch.rand(4, dtype=torch.float32) + 0.5).requires_grad_()
    h = x * 1
    result = op(h)
    (expected,) = torch.autograd.grad(result.sum(), x, retain_graph=True)
    torch.Tensor.add_(h if which == "input" else result, 1.0)
    (grad,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("name", ["mul_", "div_"])
def test_in_place_by_numbers_in_a_row(name):
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    h = x * 1
    for number in (3.0, 0.5):
        getattr(F, name)(h, number)
    F.add_(h, 1.0)
    (grad,) = torch.autograd.grad(h.sum(), x)
    torch.testing.assert_close(grad, torch.full_like(grad, 1.5 if name == "mul_" else 1 / 1.5))


KEPT = {  # per tensor that is kept: whether it is the input
    "mul by a number": (lambda h: F.mul(h, 2.0), []),
    "mul by a constant": (lambda h: F.mul(h, constant(4)), [False]),
    "square": (lambda h: F.mul(h, h), [True, True]),
    "div by a number": (lambda h: F.div(h, 2.0), []),
    "a number by it": (lambda h: F.div(2.0, h), [True]),
    "sum": (F.sum, []),
    "prod": (F.prod, [True]),
    "max": (lambda h: F.max(h, 0)[0], [False]),
    "var": (F.var, [True, False]),
    "std": (F.std, [True, False, False]),
    "relu": (F.relu, [False]),
}


@pytest.mark.parametrize("case", KEPT)
def test_no_more_is_kept_than_needed(case):
    op, expected = KEPT[case]
    h = torch.rand(4, requires_grad=True) * 1
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.data_ptr() == h.data_ptr()) or t, lambda t: t
    ):
        op(h)
    assert kept == expected


def test_inference_tensors_are_not_written_to():
    with torch.inference_mode():
        x = torch.ones(3)
        F.add_(x, 1)
        F.add(x, 1, out=x)
        assert x.tolist() == [3.0] * 3
    for write in (
        lambda: F.add_(x, 1),
        lambda: F.relu_(x),
        lambda: F.add(torch.ones(3), 1, out=x),
        lambda: F.sum(torch.ones(3, 2), 1, out=x),
        lambda: F.matmul(torch.ones(3, 2), torch.ones(2), out=x),
    ):
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
            write()
    assert x.tolist() == [3.0] * 3


def test_backward_may_come_again_where_nothing_was_saved():
    x = torch.randn(3, requires_grad=True)
    loss = F.sum(F.sub(F.add(x, 1.0), x))
    for _ in range(2):
        (grad,) = torch.autograd.grad(loss, x)
        assert torch.equal(grad, torch.zeros(3))
    loss = F.sum(F.mul(x, x))
    torch.autograd.grad(loss, x)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, x)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_second_derivative_of_cross_entropy_where_every_row_is_ignored(reduction):
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(x, torch.tensor([-100, -100]), reduction=reduction)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    assert torch.equal(second, torch.zeros_like(x))


def test_second_derivative_of_a_power_of_zero_by_its_gradient():
    x = torch.tensor([1.0, 2.5], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([1.0, -3.0], dtype=torch.float64, requires_grad=True)
    (gx,) = torch.autograd.grad(F.pow(0.0, x), x, g, create_graph=True)
    (gg,) = torch.autograd.grad(gx.sum(), g)
    assert torch.equal(gg, torch.zeros_like(gg))
