"""mm, bmm, matmul, linear: values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checks import FLOATS, assert_accurate, layouts, on_the_cpu, rand, small
from matmul_cases import ACTIVATIONS, BUDGET, SHAPES, check_product, ids

import fastgrad.functional as fg

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
SIZES = small((0, 1, 2, 7, 16, 17, 31, 64, 65, 129), (0, 1, 7, 17, 65))


@pytest.mark.parametrize("shapes", SHAPES, ids=ids)
@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul_shapes(shapes: Any, dtype: torch.dtype) -> None:
    a, b = (rand(s, dtype) for s in shapes)
    check_product(fg.matmul(a, b), torch.matmul(a, b), a, b)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shapes", SHAPES, ids=ids)
def test_matmul_integers(shapes: Any, dtype: torch.dtype) -> None:
    a, b = (rand(s, dtype, -100, 100) for s in shapes)
    assert torch.equal(fg.matmul(a, b), on_the_cpu(torch.matmul)(a, b))


def test_integers_wrap_around() -> None:
    a = torch.full((3, 40), 2**62 + 1)
    assert torch.equal(fg.mm(a, a.t()), on_the_cpu(torch.mm)(a, a.t()))
    b = torch.full((3, 300), 127, dtype=torch.int8)
    assert torch.equal(fg.mm(b, b.t()), on_the_cpu(torch.mm)(b, b.t()))


@pytest.mark.parametrize("transposed", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("dtype", FLOATS)
def test_mm_sizes(dtype: torch.dtype, transposed: tuple[bool, bool]) -> None:
    for i, m in enumerate(SIZES):
        for j, n in enumerate(SIZES):
            k = SIZES[(i + 2 * j) % len(SIZES)]
            a = rand((k, m), dtype).t() if transposed[0] else rand((m, k), dtype)
            b = rand((n, k), dtype).t() if transposed[1] else rand((k, n), dtype)
            ours, theirs = fg.mm(a, b), torch.mm(a, b)
            scale = a.double().abs() @ b.double().abs()
            assert_accurate(ours, theirs, a.double() @ b.double(), BUDGET[dtype], scale, (m, n, k))


@pytest.mark.parametrize("transposed", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("dtype", FLOATS)
def test_few_rows_or_columns(dtype: torch.dtype, transposed: tuple[bool, bool]) -> None:
    columns = [(m, n, k) for m, k in ((2, 131), (65, 128), (67, 259)) for n in (2, 3, 4, 5, 7, 8, 9, 15, 16, 17)]
    rows = [(m, 67, 587) for m in (2, 5, 8, 9, 11, 12, 33, 47, 48, 49)]
    batches = [(16, 67, 203), (30, 67, 203), (32, 131, 300), (61, 131, 203), (64, 129, 1601)]  # used in place
    for m, n, k in columns + rows + batches:
        a = rand((k, m), dtype).t() if transposed[0] else rand((m, k), dtype)
        b = rand((n, k), dtype).t() if transposed[1] else rand((k, n), dtype)
        check_product(fg.mm(a, b), torch.mm(a, b), a, b, (m, n, k))


@pytest.mark.parametrize("dtype", FLOATS)
def test_long_sums_and_many_blocks(dtype: torch.dtype) -> None:
    for m, n, k in ((3, 5, 4099), (259, 130, 1025), (1, 1, 5000), (70, 1201, 33), (255, 250, 37)):
        a, b = rand((m, k), dtype), rand((k, n), dtype)
        ours, theirs = fg.matmul(a, b), torch.matmul(a, b)
        scale = a.double().abs() @ b.double().abs()
        assert_accurate(ours, theirs, a.double() @ b.double(), BUDGET[dtype], scale, (m, n, k))


@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts(dtype: torch.dtype) -> None:
    for shapes in (((19, 21), (21, 18)), ((2, 7, 9), (9, 8)), ((2, 3, 7, 9), (3, 9, 8)), ((3, 40), (40, 1))):
        a, b = (rand(s, dtype) for s in shapes)
        for (name_a, x), (name_b, y) in itertools.product(layouts(a), layouts(b)):
            check_product(fg.matmul(x, y), torch.matmul(x, y), x, y, (shapes, name_a, name_b))


def test_layouts_of_integers() -> None:
    a, b = rand((2, 7, 9), torch.int32), rand((9, 8), torch.int32)
    for (_, x), (_, y) in itertools.product(layouts(a), layouts(b)):
        assert torch.equal(fg.matmul(x, y), on_the_cpu(torch.matmul)(x, y))


def test_special_values() -> None:
    a = torch.tensor([[math.inf, 1.0], [math.nan, 0.0], [0.0, -math.inf]])
    b = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    assert torch.equal(fg.mm(a, b).nan_to_num(77), torch.mm(a, b).nan_to_num(77))
    # The elements beside a NaN stay clean, also in a partly filled register.
    c = torch.ones(13, 5)
    c[4, 2] = math.nan
    assert fg.mm(c, torch.ones(5, 7)).isnan().any(dim=1).nonzero().flatten().tolist() == [4]


def test_empty_inner_dimension_gives_zeros() -> None:
    torch.empty(64).fill_(math.nan)  # what the allocator hands out next
    assert torch.equal(fg.mm(torch.ones(8, 0), torch.ones(0, 8)), torch.zeros(8, 8))
    bias = rand((3,), torch.float32)
    expected = bias.sigmoid().expand(4, 3)
    torch.testing.assert_close(fg.linear(torch.ones(4, 0), torch.ones(3, 0), bias, activation="sigmoid"), expected)


# linear


LINEAR = [
    ((5,), (3, 5)),
    ((4, 5), (3, 5)),
    ((64, 8), (1, 8)),
    ((1, 8), (33, 8)),
    ((2, 4, 5), (3, 5)),
    ((2, 3, 4, 5), (1, 5)),
    ((17, 130), (65, 130)),
    ((70, 263), (10, 263)),
    ((31, 201), (67, 201)),
    ((64, 801), (131, 801)),
    ((0, 5), (3, 5)),
    ((4, 5), (0, 5)),
    ((4, 0), (3, 0)),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shapes", LINEAR, ids=ids)
def test_linear(shapes: Any, dtype: torch.dtype, activation: str | None) -> None:
    x, w = (rand(s, dtype, -1, 1) for s in shapes)
    function: Callable[..., Any] = getattr(torch, activation) if activation else lambda t: t
    n = w.shape[0]
    for bias in (None, *(rand(s, dtype) for s in ((n,), (1,), ())), rand((2 * n,), dtype)[::2]):
        b = 0.0 if bias is None else bias.double()
        reference = function(x.double() @ w.double().t() + b)
        theirs = function(F.linear(x, w, None if bias is None else bias.expand(n)))
        ours = fg.linear(x, w, bias, activation=activation)
        assert ours.stride() == theirs.stride()
        # Every activation is 1-Lipschitz; in float32 and float64 it adds 2.5 ulp of its own.
        scale = x.double().abs() @ w.double().abs().t() + abs(b)
        assert_accurate(ours, theirs, reference, BUDGET[dtype] + (2.5 if dtype.itemsize > 2 else 0), scale, shapes)


def test_linear_layouts() -> None:
    x, w, b = rand((6, 7, 13), torch.float32), rand((5, 13), torch.float32), rand((5,), torch.float32)
    for (name_x, xv), (name_w, wv) in itertools.product(layouts(x), layouts(w)):
        ours, theirs = fg.linear(xv, wv, b, activation="tanh"), torch.tanh(F.linear(xv, wv, b))
        reference = torch.tanh(F.linear(xv.double(), wv.double(), b.double()))
        scale = F.linear(xv.double().abs(), wv.double().abs(), b.double().abs())
        assert_accurate(ours, theirs, reference, 5.5, scale, (name_x, name_w))


def test_linear_epilogue_is_the_activation_itself() -> None:
    """Fused and unfused give the same bits in the dtypes that are not rounded in between."""
    for dtype in (torch.float32, torch.float64):
        x, w, b = rand((37, 50), dtype), rand((43, 50), dtype), rand((43,), dtype)
        for activation in ("relu", "sigmoid", "tanh"):
            fused = fg.linear(x, w, b, activation=activation)
            assert torch.equal(fused, getattr(fg, activation)(fg.linear(x, w, b)))


def test_linear_vector_weight() -> None:
    w = rand((5,), torch.float64)
    for shape in ((5,), (4, 5), (2, 3, 5)):
        x = rand(shape, torch.float64)
        torch.testing.assert_close(fg.linear(x, w), F.linear(x, w))
    x, b = rand((5,), torch.float64), rand((), torch.float64)
    torch.testing.assert_close(fg.linear(x, w, b), F.linear(x, w, b))


def test_linear_integers() -> None:
    x, w, b = (rand(s, torch.int64, -100, 100) for s in ((4, 5), (3, 5), (3,)))
    assert torch.equal(fg.linear(x, w, b), on_the_cpu(F.linear)(x, w, b))


def test_linear_relu_keeps_nan() -> None:
    x = torch.tensor([[math.nan, 1.0], [-1.0, 0.0]])
    assert fg.linear(x, torch.eye(2), activation="relu")[0].isnan().all()
