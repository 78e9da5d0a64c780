"""softmax and log_softmax: every layer, against float64 references and torch."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import (
    EPS,
    FLOATS,
    assert_accurate,
    check_compiles,
    check_gradients,
    check_op,
    check_reproducible,
    layouts,
    narrow,
    rand,
    wide,
)
from torch.autograd import gradcheck

import fastgrad.functional as G

PAIRS = [pytest.param(G.softmax, F.softmax, id="softmax"), pytest.param(G.log_softmax, F.log_softmax, id="log_softmax")]

# (shape, dim): rows too short for a register, rows of one block and of several, tiles of adjacent rows, odd edges.
CASES = [
    ((), 0),
    ((1,), 0),
    ((5,), -1),
    ((3, 1), 1),
    ((1, 3), 0),
    ((67, 7), 1),
    ((7, 67), 0),
    ((129, 16), 1),
    ((5, 63, 9), 1),
    ((3, 4, 5, 2), 2),
    ((3, 65), 1),
    ((131, 64), 1),
    ((37, 100), 1),
    ((69, 250), 1),
    ((4, 1023), 1),
    ((4, 1025), -1),
    ((1500, 70), 0),
    ((2, 3, 257), 0),
    ((2, 4099), 1),
    ((4099, 17), 0),
    ((2, 40009), 1),
    ((9001, 19), 0),
    ((1003, 2), 1),
    ((301, 10), 1),
    ((260, 23), 1),
    ((259, 31), 1),
    ((71, 3, 63), 2),
    ((77, 127), 1),
    ((77, 128), 1),
]


def budget(dtype: torch.dtype) -> float:
    """4 ulp of rounding x - max (below 16 here), 1 of exp, 2 of sum and quotient; of a half type its own 0.5."""
    return 7.0 if dtype in (torch.float32, torch.float64) else 0.6


def reference(x: torch.Tensor, grad: torch.Tensor, dim: int, log: bool) -> tuple[torch.Tensor, ...]:
    """In long double: the result, the gradient, and the size of the terms that the gradient is a difference of.

    Of softmax's result, rounded to a subnormal, the gradient inherits an absolute error: its size there is of the
    smallest normal number.
    """
    v, g = (np.atleast_1d(wide(t)) for t in (x, grad))
    d = v - v.max(dim, keepdims=True)
    total = np.exp(d).sum(dim, keepdims=True)
    p = np.exp(d) / total
    if log:
        sums = [p * a.sum(dim, keepdims=True) for a in (g, np.abs(g))]
        results = d - np.log(total), g - sums[0], np.abs(g) + sums[1]
    else:
        dot, size = ((p * a).sum(dim, keepdims=True) for a in (g, np.abs(g)))
        results = p, p * (g - dot), np.maximum(p, torch.finfo(x.dtype).tiny) * (np.abs(g) + size)
    return tuple(narrow(r).reshape(x.shape) for r in results)


@pytest.mark.parametrize("ours, theirs", PAIRS)
def test_rows_do_not_depend_on_each_other(ours, theirs) -> None:
    for shape in ((67, 7), (67, 16), (131, 40), (300, 10), (50, 127), (9, 1025)):
        x = rand(shape, torch.float32)
        alone = ours(x, 1)
        for extreme in (float("nan"), -float("inf"), -1e9, -90.0, 300.0):
            among = x.clone()
            among[::3, 1::2] = extreme
            result = ours(among, 1)
            assert torch.equal(result[1::3], alone[1::3]) and torch.equal(result[2::3], alone[2::3]), (shape, extreme)


@pytest.mark.parametrize("ours,theirs", PAIRS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape,dim", CASES)
def test_accuracy(ours, theirs, dtype, shape, dim):
    torch.manual_seed(0)
    x, grad = rand(shape, dtype, -8, 8), rand(shape, dtype)
    log = theirs is F.log_softmax
    y_reference, g_reference, g_size = reference(x, grad, dim, log)
    results = []
    for f in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = f(leaf, dim)
        results.append((y.detach(), torch.autograd.grad(y, leaf, grad)[0]))
    (y, g), (y_theirs, g_theirs) = results
    assert y.stride() == y_theirs.stride() and g.stride() == g_theirs.stride()
    tiny = torch.finfo(dtype).tiny  # below it a unit in the last place is no smaller: half types get there
    assert_accurate(y, y_theirs, y_reference, budget(dtype), 1.0 if log else tiny, (shape, dim))
    # The saved result, rounded to its dtype, is part of the gradient's error.
    assert_accurate(g, g_theirs, g_reference, 3 * budget(dtype), g_size.clamp_min(tiny), (shape, dim))


@pytest.mark.parametrize("ours,theirs", PAIRS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64))
@pytest.mark.parametrize(
    "shape,dim", [((33, 20), 0), ((33, 20), 1), ((6, 130, 18), 1), ((5, 6, 300), 2), ((5, 6, 3), 0)]
)
def test_layouts(ours, theirs, dtype, shape, dim):
    torch.manual_seed(1)
    x = rand(shape, dtype)
    grad = rand(shape, dtype)
    for name, view in layouts(x):
        dense = view.contiguous().requires_grad_()
        y = ours(dense, dim)
        (g,) = torch.autograd.grad(y, dense, grad)
        for _, grad_view in layouts(grad):
            leaf = view.detach().requires_grad_()
            z = ours(leaf, dim)
            (h,) = torch.autograd.grad(z, leaf, grad_view)
            tolerance = 4 * EPS[dtype]
            torch.testing.assert_close(z, y, rtol=tolerance, atol=0, msg=f"{name}")
            expected = torch.autograd.grad(ours(dense, dim), dense, grad_view.contiguous())[0]
            # A backend may add up in another order for another layout: relative to the terms that are added.
            size = reference(view, grad_view, dim, theirs is F.log_softmax)[2]
            assert ((h.double() - expected.double()).abs() <= tolerance * size).all(), name
        assert g.isfinite().all()


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_dtype_argument(ours, theirs):
    for source in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool):
        for result in FLOATS:
            for shape, dim in (((7, 40), 1), ((7, 40), 0), ((3, 100), 1)):
                x = rand(shape, source, 0, 5)
                expected = theirs(x, dim, dtype=result)
                y = ours(x, dim, dtype=result)
                assert y.dtype == result and y.stride() == expected.stride()
                torch.testing.assert_close(y, expected, rtol=8 * EPS[result], atol=8 * EPS[result])
    x = rand((4, 9), torch.bfloat16).requires_grad_()
    ours(x, 1, dtype=torch.float32).square().sum().backward()
    y = x.detach().clone().requires_grad_()
    theirs(y, 1, dtype=torch.float32).square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, y.grad, rtol=EPS[torch.bfloat16], atol=1e-6)


@pytest.mark.parametrize("ours,theirs", PAIRS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", (3, 17, 300, 5000, 40000))
@pytest.mark.parametrize("dim", (0, 1))
def test_special_values(ours, theirs, dtype, n, dim):
    inf, nan = float("inf"), float("nan")
    x = torch.zeros(8, n, dtype=dtype)
    x[0, n // 2] = -inf
    x[1] = -inf
    x[2, : n - 1] = -inf
    x[3, 1] = nan
    x[4, n - 1] = inf
    x[5, 0] = torch.finfo(dtype).max
    x[6, n - 1] = torch.finfo(dtype).min
    x[7, 1:] = -inf
    x = x if dim == 1 else x.t().contiguous()
    y, expected = ours(x, dim), theirs(x.double(), dim).to(dtype)
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=4 * EPS[dtype], atol=0)


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_large_values_lose_nothing(ours, theirs):
    x = torch.tensor([[1e4, 1e4 - 1, 1e4 - 5], [-3e38, -3e38, -3e38], [88.0, 89.0, 90.0]])
    torch.testing.assert_close(ours(x, 1), theirs(x.double(), 1).float(), rtol=3e-7, atol=0)


def test_seeds():
    y = G.softmax(torch.tensor([2.0, 1.0, 0.1]), dim=0)
    torch.testing.assert_close(y, torch.tensor([0.6590, 0.2424, 0.0986]), atol=5e-5, rtol=0)


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_empty_and_scalar(ours, theirs):
    for shape, dim in (((0,), 0), ((3, 0), 1), ((3, 0), 0), ((0, 3), 1), ((0, 3), 0), ((2, 0, 3), 2)):
        x = torch.zeros(shape, requires_grad=True)
        y = ours(x, dim)
        assert y.shape == x.shape and y.stride() == theirs(x, dim).stride()
        y.sum().backward()
        assert x.grad.shape == x.shape
    x = torch.tensor(3.0, requires_grad=True)
    assert ours(x, -1).item() == theirs(x, -1).item()


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_implicit_dim(ours, theirs):
    for shape in ((), (4,), (3, 4), (2, 3, 4), (2, 3, 4, 2)):
        x = rand(shape, torch.float64)
        with pytest.warns(UserWarning, match="Implicit dimension choice"):
            y = ours(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(y, theirs(x))


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_errors(ours, theirs):
    for args, kwargs in (
        ((torch.zeros(3), 1), {}),
        ((torch.zeros(()), 1), {}),
        ((torch.zeros(2, 3), -3), {}),
        ((torch.arange(3), 0), {}),
        ((torch.zeros(3), 0), {"dtype": torch.int64}),
    ):
        with pytest.raises(Exception) as expected:
            theirs(*args, **kwargs)
        with pytest.raises(expected.type):
            ours(*args, **kwargs)
    with pytest.raises(TypeError, match="input"):
        ours([1.0], 0)
    with pytest.raises(TypeError, match="dtype"):
        ours(torch.zeros(3), 0, dtype="float")


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_gradients(ours, theirs):
    torch.manual_seed(2)
    for shape, dim in (((3, 4), 0), ((3, 4), 1), ((2, 3, 2), 1)):
        check_gradients(lambda x, d=dim: ours(x, d), [rand(shape, torch.float64).requires_grad_()])
    assert gradcheck(lambda x: ours(x, 0), (torch.tensor(0.5, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("name", ("softmax", "log_softmax"))
def test_op(name):
    op = getattr(torch.ops.fastgrad, name)
    for x in (rand((3, 5), torch.float32), rand((5, 3, 2), torch.bfloat16).transpose(0, 1)):
        check_op(op.default, (x.detach().requires_grad_(), 1))
        check_op(op.default, (x, 0, torch.float32))
        y = op(x, 1).detach()
        backward = getattr(torch.ops.fastgrad, f"{name}_backward")
        check_op(backward.default, (x.detach().requires_grad_(), y.requires_grad_(), 1, x.dtype))


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_compiles(ours, theirs):
    check_compiles(lambda x: ours(x, 1), [rand((3, 5), torch.float32).requires_grad_()])
    check_compiles(lambda x: ours(x, dim=-1, dtype=torch.float64), [rand((3, 5), torch.float32)])


@pytest.mark.parametrize("ours,theirs", PAIRS)
@pytest.mark.parametrize("shape,dim", [((5000, 17), 1), ((300, 500), 1), ((500, 300), 0), ((3, 50000), 1)])
def test_reproducible(ours, theirs, shape, dim):
    x = rand(shape, torch.float32).requires_grad_()
    grad = rand(shape, torch.float32)
    check_reproducible(lambda: (ours(x, dim), *torch.autograd.grad(ours(x, dim), x, grad)))


@pytest.mark.parametrize("ours,theirs", PAIRS)
def test_rows_do_not_depend_on_their_neighbours(ours, theirs):
    x = rand((71, 33), torch.float32)
    y = ours(x, 1)
    for start in (1, 13, 64):
        assert torch.equal(ours(x[start:], 1), y[start:])
    assert torch.equal(ours(x.t().contiguous(), 0).t()[:17], ours(x[:17].t().contiguous(), 0).t())
