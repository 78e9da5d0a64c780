"""cross_entropy and nll_loss: every target kind and reduction, against float64 and torch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import (
    CHECKS_VALUES,
    EPS,
    FLOATS,
    assert_accurate,
    check_compiles,
    check_gradients,
    check_op,
    check_reproducible,
    narrow,
    on_the_cpu,
    rand,
    wide,
)

import fastgrad.functional as G

REDUCTIONS = ("none", "mean", "sum")
SHAPES = [
    (5,),
    (1, 1),
    (3, 7),
    (70, 16),
    (69, 100),
    (9, 1000),
    (3, 4099),
    (2, 5, 3),
    (2, 130, 4, 5),
    (1, 3, 67),
    (2, 33, 70),
]


def labels(shape, ignored: int | None = None) -> torch.Tensor:
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    target = torch.randint(0, shape[min(1, len(shape) - 1)], rows)
    if ignored is not None and target.numel() > 2:
        target.view(-1)[1] = ignored
    return target


def classes(shape) -> int:
    return shape[1] if len(shape) > 1 else shape[0]


def both(ours, theirs, x, target, grad=None, **kwargs):
    """(loss, gradient) of ours, of theirs, and of theirs in float64, for one incoming gradient."""
    results = []
    for f, dtype in ((ours, x.dtype), (theirs, x.dtype), (theirs, torch.float64)):
        leaf = x.detach().to(dtype).requires_grad_()
        t = target.to(dtype) if target.is_floating_point() else target
        args = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
        loss = f(leaf, t, **args)
        grad = torch.rand(loss.shape, dtype=torch.float64).to(x.dtype) if grad is None else grad
        results.append((loss.detach(), torch.autograd.grad(loss, leaf, grad.to(dtype))[0]))
    return results


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_accuracy(dtype, shape):
    torch.manual_seed(0)
    for reduction, weighted, smoothing, kind in itertools.product(
        REDUCTIONS, (False, True), (0.0, 0.1), ("indices", "probabilities")
    ):
        x = rand(shape, dtype, -8, 8)
        target = (
            labels(shape, -100)
            if kind == "indices"
            else F.softmax(rand(shape, torch.float64), min(1, len(shape) - 1)).to(dtype)
        )
        weight = torch.rand(classes(shape)).add(0.5).to(dtype) if weighted else None
        kwargs = {"reduction": reduction, "label_smoothing": smoothing} | ({"weight": weight} if weighted else {})
        ours, theirs, reference = both(G.cross_entropy, F.cross_entropy, x, target, **kwargs)
        case = (shape, kwargs, kind)
        assert ours[0].stride() == theirs[0].stride() and ours[1].stride() == theirs[1].stride()
        assert_accurate(ours[0], theirs[0], reference[0], 16 if dtype == torch.float64 else 8, 1.0, case)
        # Relative to the largest of the gradient's terms: p and the target's share cancel, wholly for one class.
        size = max(reference[1].abs().max().item(), 0.1 / (x.numel() // classes(shape)))
        assert_accurate(ours[1], theirs[1], reference[1], 16, size, case)


@pytest.mark.parametrize("n", (1, 3, 7, 8, 9, 15, 16, 17, 31, 63, 65, 130))
def test_short_rows(n):
    """Rows that are computed on by the tile, in numbers that fill neither tiles nor registers."""
    torch.manual_seed(0)
    for rows, dtype, reduction, smoothing in itertools.product((2, 15, 64, 261), FLOATS, REDUCTIONS, (0.0, 0.1)):
        target = torch.randint(0, n, (rows,))
        target[torch.rand(rows) < 0.2] = -100
        target[-1] = n - 1
        columns = rand((n, rows), dtype, -8, 0)
        for x in (columns.t(), columns.t().contiguous()):
            for ours, theirs, kwargs in (
                (G.cross_entropy, F.cross_entropy, {"label_smoothing": smoothing}),
                (G.nll_loss, F.nll_loss, {}),
            ):
                kwargs |= {"reduction": reduction, "weight": torch.rand(n).add(0.5).to(dtype)}
                mine, torchs, reference = both(ours, theirs, x, target, **kwargs)
                case = (rows, n, dtype, x.stride(), ours.__name__, reduction, smoothing)
                assert_accurate(mine[0], torchs[0], reference[0], 16 if dtype == torch.float64 else 8, 1.0, case)
                size = max(reference[1].abs().max().item(), 0.1 / rows if reduction == "mean" else 0.1)
                assert_accurate(mine[1], torchs[1], reference[1], 16, size, case)


@pytest.mark.cpu
@pytest.mark.parametrize("ours", [G.cross_entropy, G.nll_loss])
def test_first_class_out_of_bounds(ours):
    for n, rows in ((3, 70), (10, 300), (17, 64)):
        x, target = torch.randn(rows, n), torch.randint(0, n, (rows,))
        target[5] = -100
        for later in (rows - 1, 66 % rows, 1):
            target[later] = n + later
            if not CHECKS_VALUES:
                assert ours(x, target).isnan()
                continue
            with pytest.raises(IndexError, match=f"{n + later}"):
                ours(x, target)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nll_accuracy(dtype, shape):
    torch.manual_seed(0)
    for reduction, weighted in itertools.product(REDUCTIONS, (False, True)):
        x = rand(shape, dtype, -8, 0)
        weight = torch.rand(classes(shape)).add(0.5).to(dtype) if weighted else None
        kwargs = {"reduction": reduction, "ignore_index": 2} | ({"weight": weight} if weighted else {})
        ours, theirs, reference = both(G.nll_loss, F.nll_loss, x, labels(shape), **kwargs)
        for a, b, r in zip(ours, theirs, reference, strict=True):
            assert a.stride() == b.stride()
            assert_accurate(a, b, r, 4, 0.0, (shape, kwargs))


def test_seeds():
    def ce(x, y):
        return G.cross_entropy(torch.tensor(x), torch.tensor(y)).item()

    assert ce([[2.0, 1.0, 0.1]], [0]) == pytest.approx(0.417030, abs=1e-6)
    assert ce([[0.5, 2.0, 0.3]], [0]) == pytest.approx(1.840616, abs=1e-6)
    good, bad = [[0.1, 0.2, 3.9], [1.2, 0.1, 0.3], [0.3, 2.2, 0.2]], [[0.9, 0.2, 0.1], [0.1, 0.3, 1.5], [1.2, 0.2, 0.5]]
    assert ce(good, [2, 0, 1]) == pytest.approx(0.283422, abs=1e-6)
    assert ce(bad, [2, 0, 1]) == pytest.approx(1.641845, abs=1e-6)
    for x, reduction in itertools.product((good, bad), REDUCTIONS):
        logp, y = torch.log_softmax(torch.tensor(x), 1), torch.tensor([2, 0, 1])
        expected = F.nll_loss(logp, y, reduction=reduction)
        torch.testing.assert_close(G.nll_loss(logp, y, reduction=reduction), expected)


def test_uint8_target():
    x = rand((6, 5), torch.float32)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.equal(G.cross_entropy(x, y.byte()), G.cross_entropy(x, y))


@pytest.mark.parametrize("ours,theirs", [(G.cross_entropy, F.cross_entropy), (G.nll_loss, F.nll_loss)])
def test_all_ignored(ours, theirs):
    x = torch.randn(5, 3, requires_grad=True)
    y = torch.full((5,), -100)
    assert math.isnan(ours(x, y).item()) and math.isnan(theirs(x, y).item())
    assert ours(x, y, reduction="sum").item() == 0
    assert torch.equal(ours(x, y, reduction="none"), torch.zeros(5))
    ours(x, y, reduction="sum").backward()
    assert torch.equal(x.grad, torch.zeros(5, 3))


@pytest.mark.parametrize("n", (3, 100, 9000))
def test_special_logits(n):
    inf, nan = float("inf"), float("nan")
    x = torch.zeros(7, n, dtype=torch.float64)
    x[0, 1:] = -inf  # only the class itself
    x[1, 1] = -inf
    x[2, 0] = -inf  # the class itself: an infinite loss
    x[3] = -inf
    x[4, 2] = nan
    x[5, 1] = inf
    x[6] = 1e4
    x[6, 0] = 1e4 - 3
    y = torch.zeros(7, dtype=torch.long)
    for smoothing, dtype in itertools.product((0.0, 0.1), FLOATS):
        grad = torch.rand(7, dtype=torch.float64).to(dtype)
        ours, _, theirs = both(
            G.cross_entropy, F.cross_entropy, x.to(dtype), y, grad, reduction="none", label_smoothing=smoothing
        )
        exact = special_reference(x.to(dtype), y, smoothing, grad)
        for a, b, e in zip(ours, theirs, exact, strict=True):
            assert torch.equal(a.isfinite(), b.isfinite())
            # torch's float64 sums n terms one by one, and is off by n times as much as this.
            torch.testing.assert_close(a, e.to(dtype), equal_nan=True, rtol=8 * EPS[dtype], atol=8 * EPS[dtype])


def special_reference(x, y, smoothing, grad):
    """The losses and gradients of class indices in long double."""
    logits = wide(x)
    q = np.full_like(logits, np.longdouble(smoothing) / logits.shape[1])
    q[np.arange(len(logits)), y.cpu().numpy()] += 1 - np.longdouble(smoothing)
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        loss = -np.where(q > 0, q * log_p, 0).sum(1)
        gradient = wide(grad)[:, None] * (np.exp(log_p) - q)
    return narrow(loss), narrow(gradient)


def test_empty():
    for ours, theirs in ((G.cross_entropy, F.cross_entropy), (G.nll_loss, F.nll_loss)):
        for reduction in REDUCTIONS:
            x = torch.zeros(0, 4, requires_grad=True)
            loss = ours(x, torch.zeros(0, dtype=torch.long), reduction=reduction)
            expected = theirs(x, torch.zeros(0, dtype=torch.long), reduction=reduction)
            torch.testing.assert_close(loss, expected, equal_nan=True)
            loss.sum().backward()
            assert x.grad.shape == (0, 4)
        no_class = torch.zeros(3, 0), torch.zeros(3, dtype=torch.long)
        if CHECKS_VALUES:
            with pytest.raises(IndexError):
                ours(*no_class)
        else:
            assert ours(*no_class).isnan()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients(reduction):
    torch.manual_seed(3)
    x = rand((4, 3, 2), torch.float64).requires_grad_()
    y = labels((4, 3, 2), -100)
    weight = torch.rand(3, dtype=torch.float64) + 0.5
    for w, smoothing in ((None, 0.0), (weight, 0.2)):
        check_gradients(
            lambda x, w=w, e=smoothing: G.cross_entropy(x, y, w, reduction=reduction, label_smoothing=e), [x]
        )
    check_gradients(lambda x: G.nll_loss(x, y, weight, reduction=reduction), [x])
    single = rand((5,), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: G.cross_entropy(x, torch.tensor(2), reduction=reduction), (single,))
    p = F.softmax(rand((4, 3), torch.float64), 1).requires_grad_()
    logits = rand((4, 3), torch.float64).requires_grad_()
    for w in (None, weight):
        check_gradients(
            lambda x, p, w=w: G.cross_entropy(x, p, w, reduction=reduction, label_smoothing=0.1), [logits, p]
        )
    w = weight.clone().requires_grad_()
    x, q = logits.detach(), p.detach()
    assert torch.autograd.gradcheck(lambda w: G.cross_entropy(x, q, w, reduction=reduction), (w,))


def test_second_backward_and_untouched_logits():
    x = torch.randn(6, 5, requires_grad=True)
    y = torch.randint(0, 5, (6,))
    before, version = x.detach().clone(), x._version
    loss = G.cross_entropy(x, y)
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, first * 2) and torch.equal(x.detach(), before) and x._version == version
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_expanded_gradient_of_no_reduction():
    x = torch.randn(40, 3, 5, requires_grad=True)
    y = torch.randint(0, 3, (40, 5))
    (ours,) = torch.autograd.grad(G.cross_entropy(x, y, reduction="none").sum(), x)
    (theirs,) = torch.autograd.grad(F.cross_entropy(x.double(), y, reduction="none").sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_layouts_of_logits():
    for shape in ((6, 40), (4, 5, 6, 7)):
        x = rand(shape, torch.float32)
        y = labels(shape)
        expected = G.cross_entropy(x, y, reduction="none")
        views = {
            "class dimension last in memory": x.movedim(1, -1).contiguous().movedim(-1, 1),
            "transposed": x.transpose(0, 1).contiguous().transpose(0, 1),
            "sliced": torch.stack([x, x], -1)[..., 0],
        }
        for name, view in views.items():
            torch.testing.assert_close(G.cross_entropy(view, y, reduction="none"), expected, msg=name)
        row = x[:1].expand(shape)
        torch.testing.assert_close(G.cross_entropy(row, y), F.cross_entropy(row, y))


def test_deprecated_arguments():
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for ours, theirs in ((G.cross_entropy, F.cross_entropy), (G.nll_loss, F.nll_loss)):
        for kwargs in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
            with pytest.warns(UserWarning, match="deprecated"):
                loss = ours(x, y, **kwargs)
            with pytest.warns(UserWarning, match="deprecated"):
                torch.testing.assert_close(loss, theirs(x, y, **kwargs))


def errors():
    x, y = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    p = torch.full((3, 4), 0.25)
    yield (x, y[:2]), {}
    yield (x, y[:, None]), {}
    yield (x, y.int()), {}
    yield (x, y.float()), {}
    yield (x.long(), y), {}
    yield (x, y), {"weight": torch.ones(3)}
    yield (x, y), {"weight": torch.ones(4).double()}
    yield (x, y), {"weight": torch.ones(4, requires_grad=True)}
    yield (x, y), {"reduction": "foo"}
    yield (torch.zeros(3, 4, 5), torch.zeros(3, 6, dtype=torch.long)), {}
    yield (torch.zeros(4), torch.zeros(2, dtype=torch.long)), {}
    yield (x, torch.zeros(3, 4, dtype=torch.long)), {}
    yield (torch.zeros(()), torch.zeros((), dtype=torch.long)), {}
    yield (x, p), {"ignore_index": 1}
    yield (x, y), {"label_smoothing": 1.5}


@pytest.mark.parametrize("ours,theirs", [(G.cross_entropy, F.cross_entropy), (G.nll_loss, F.nll_loss)])
def test_errors(ours, theirs):
    for args, kwargs in errors():
        if ours is G.nll_loss and (kwargs.keys() & {"label_smoothing"} or args[0].dim() == 0):
            continue
        try:
            on_the_cpu(theirs)(*args, **kwargs)
        except Exception as e:
            with pytest.raises(type(e)):
                ours(*args, **kwargs)
    with pytest.raises(TypeError, match="input"):
        ours([1.0], torch.tensor([0]))
    with pytest.raises(TypeError, match="target"):
        ours(torch.zeros(1, 2), [0])


def test_ops():
    x = rand((4, 3, 2), torch.float32).requires_grad_()
    y, p, w = labels((4, 3, 2)), F.softmax(rand((4, 3, 2), torch.float32), 1), torch.rand(3)
    ops = torch.ops.fastgrad
    for target, weight, reduction in ((y, None, 1), (y, w, 0), (p, w, 2)):
        check_op(ops.cross_entropy.default, (x, target, weight, reduction, -100, 0.1))
        loss, stats, total = (t.detach() for t in ops.cross_entropy(x, target, weight, reduction, -100, 0.1))
        g = torch.ones_like(loss).requires_grad_()
        check_op(ops.cross_entropy_backward.default, (g, x, target, weight, stats, total, reduction, -100, 0.1))
    check_op(ops.nll_loss.default, (x, y, w, 1, -100))
    loss, total = (t.detach() for t in ops.nll_loss(x, y, w, 1, -100))
    check_op(ops.nll_loss_backward.default, (loss.requires_grad_(), x, y, w, total, 1, -100))


def test_compiles():
    x, y = rand((4, 3), torch.float32).requires_grad_(), torch.tensor([0, 2, 1, 0])
    p = F.softmax(rand((4, 3), torch.float32), 1)
    check_compiles(lambda x: G.cross_entropy(x, y, label_smoothing=0.1), [x])
    check_compiles(lambda x: G.cross_entropy(x, p, reduction="sum"), [x])
    check_compiles(lambda x: G.nll_loss(x, y, reduction="none"), [x])


def test_loss_dtypes_and_autocast_of_half():
    for dtype in (torch.bfloat16, torch.float16):
        x, y = rand((4, 3), dtype), torch.tensor([0, 2, 1, 0])
        assert G.cross_entropy(x, y).dtype == F.cross_entropy(x, y).dtype == dtype
        assert G.nll_loss(x, y).dtype == dtype
        p = torch.full((4, 3), 1 / 3)
        assert G.cross_entropy(x, p).dtype == F.cross_entropy(x, p).dtype == torch.float32
    x = torch.zeros(4, 3)
    assert G.cross_entropy(x, torch.zeros(4, 3).double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3000, 17), (300, 500), (8, 30000), (5, 33, 700)])
def test_reproducible(shape):
    x, y = rand(shape, torch.float32).requires_grad_(), labels(shape)

    def run():
        loss = G.cross_entropy(x, y, label_smoothing=0.1)
        nll = G.nll_loss(x, y)
        return loss, nll, *torch.autograd.grad(loss + nll, x)

    check_reproducible(run)


@pytest.mark.cpu
def test_autocast():
    x, y = torch.randn(4, 5).bfloat16(), torch.randint(0, 5, (4,))
    p = torch.rand(4, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for ours, theirs, target in (
            (G.cross_entropy, F.cross_entropy, y),
            (G.cross_entropy, F.cross_entropy, p),
            (G.nll_loss, F.nll_loss, y),
        ):
            a, b = ours(x, target), theirs(x, target)
            assert a.dtype == b.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
