"""mse_loss, l1_loss, smooth_l1_loss: values, weights, broadcasting, gradients, errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from checks import (
    EPS,
    FLOATS,
    ON_CUDA,
    WORKSPACE,
    allocated_by,
    as_without_a_default_device,
    assert_accurate,
    check_compiles,
    check_gradients,
    check_op,
    check_reproducible,
    layouts,
    rand,
    small,
)
from loss_checks import (
    REDUCTIONS,
    SHAPES,
    Reference,
    check_layouts,
    check_recurring_bugs,
    check_same_error,
    check_values,
)

import fastgrad.functional as F

NAMES = ("mse_loss", "l1_loss", "smooth_l1_loss")
WEIGHTED = ("mse_loss", "l1_loss")
CODES = dict(zip(REDUCTIONS, (0, 1, 2), strict=True))


def _mse(x: Any, t: Any, weight: Any = 1.0) -> Reference:
    d = x - t
    return Reference(weight * d * d, 2 * weight * d, -2 * weight * d)


def _l1(x: Any, t: Any, weight: Any = 1.0) -> Reference:
    s = weight * np.sign(x - t)
    return Reference(weight * np.abs(x - t), s, -s)


def _smooth_l1(x: Any, t: Any, beta: float = 1.0) -> Reference:
    d = x - t
    small_d = np.abs(d) < beta
    loss = np.where(small_d, d * d / (2 * beta), np.abs(d) - beta / 2)
    g = np.where(small_d, d / beta, np.sign(d))
    return Reference(loss, g, -g)


REFERENCES: dict[str, Callable[..., Reference]] = {"mse_loss": _mse, "l1_loss": _l1, "smooth_l1_loss": _smooth_l1}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        x, t = rand(shape, dtype), rand(shape, dtype)
        check_values(getattr(F, name), getattr(TF, name), REFERENCES[name], x, t, 4)


@pytest.mark.parametrize("beta", (0.25, 1.5, 1e-3, 1e30))
def test_smooth_l1_beta(beta: float) -> None:
    for dtype in (torch.float32, torch.float64):
        x, t = rand((1001,), dtype), rand((1001,), dtype)
        # d / beta - 1/2 cancels in the linear part next to beta: compare within the quadratic one and far beyond.
        keep = ((x - t).abs() < beta) | ((x - t).abs() > 2 * beta)
        x, t = x[keep], t[keep]
        reference = lambda a, b: _smooth_l1(a, b, beta)  # noqa: E731
        check_values(lambda *a, **k: F.smooth_l1_loss(*a, beta=beta, **k),
                     lambda *a, **k: TF.smooth_l1_loss(*a, beta=beta, **k), reference, x, t, 4)  # fmt: skip


def test_smooth_l1_at_beta_and_zero_beta() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    t = torch.zeros(6)
    for beta in (0, 0.0, 0.5, 1.0, 1):
        for reduction in REDUCTIONS:
            ours, theirs = (f.smooth_l1_loss(x, t, beta=beta, reduction=reduction) for f in (F, TF))
            # torch's mean multiplies by 1/n on CUDA: one rounding more.
            tolerance = 2 * EPS[x.dtype] if ON_CUDA and reduction == "mean" else 0
            for a, b in ((ours, theirs), [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_layouts(name: str) -> None:
    check_layouts(getattr(F, name), getattr(TF, name), rand((5, 7, 3), torch.float32), rand((5, 7, 3), torch.float32))
    check_layouts(
        getattr(F, name), getattr(TF, name), rand((300, 9), torch.bfloat16).float(), rand((300, 9), torch.float32)
    )


@pytest.mark.parametrize("name", NAMES)
def test_recurring_bugs(name: str) -> None:
    check_recurring_bugs(getattr(F, name), getattr(TF, name), rand((5, 7), torch.float32), rand((5, 7), torch.float32))


@pytest.mark.parametrize("name", NAMES)
def test_broadcasting_warns_as_torch(name: str) -> None:
    for a, b in (((5, 3), (3,)), ((5, 1), (1, 4)), ((), (4,)), ((4, 1), (4,)), ((2, 0), (1, 1))):
        x, t = rand(a, torch.float64).requires_grad_(), rand(b, torch.float64).requires_grad_()
        for reduction in REDUCTIONS:
            texts, results = [], []
            for f in (getattr(F, name), getattr(TF, name)):
                with warnings.catch_warnings(record=True) as caught, as_without_a_default_device():
                    warnings.simplefilter("always")
                    y = f(x, t, reduction=reduction)
                texts.append([(str(w.message), w.category, w.filename) for w in caught])
                results.append((y, *torch.autograd.grad(y.sum(), (x, t))))
            assert texts[0] == texts[1] and len(texts[0]) == 1
            for u, v in zip(*results, strict=True):
                assert torch.allclose(u, v, rtol=1e-12, atol=1e-15, equal_nan=True) and u.shape == v.shape


@pytest.mark.parametrize("name", NAMES)
def test_mixed_dtypes(name: str) -> None:
    dtypes = (*FLOATS, torch.int64, torch.uint8)
    for a in dtypes:
        for b in dtypes:
            if not a.is_floating_point and not b.is_floating_point:
                continue
            x, t = rand((33,), a), rand((33,), b)
            for reduction in REDUCTIONS:
                ours, theirs = (getattr(f, name)(x, t, reduction=reduction) for f in (F, TF))
                exact = getattr(TF, name)(x.double(), t.double(), reduction=reduction)
                assert_accurate(ours, theirs, exact, 4, what=(a, b, reduction))
            if a.is_floating_point and b.is_floating_point:
                x.requires_grad_(), t.requires_grad_()
                grads = torch.autograd.grad(getattr(F, name)(x, t), (x, t))
                assert grads[0].dtype == a and grads[1].dtype == b


@pytest.mark.parametrize("name", WEIGHTED)
def test_weight(name: str) -> None:
    ours, theirs = getattr(F, name), getattr(TF, name)
    for shape in ((), (1,), (17,), (7, 11), (5000,)):
        x, t, w = (rand(shape, torch.float32).requires_grad_() for _ in range(3))
        w = w.detach().abs().add(0.1).requires_grad_()
        for reduction in REDUCTIONS:
            results = []
            for f, d in ((ours, torch.float32), (theirs, torch.float32), (theirs, torch.float64)):
                a, b, c = (v.detach().to(d).requires_grad_() for v in (x, t, w))
                with as_without_a_default_device():
                    y = f(a, b, reduction=reduction, weight=c)
                results.append((y, *torch.autograd.grad(y, (a, b, c), torch.full_like(y, 0.5))))
            for o, th, ref in zip(*results, strict=True):
                assert_accurate(o.detach(), th.detach(), ref.detach(), 4, scale=ref.abs().max().item())
    # The weight has the input's shape, and the target broadcasts against both.
    x, t, w = rand((4, 1), torch.float64), rand((3,), torch.float64), rand((4, 1), torch.float64, 0.5, 1)
    with warnings.catch_warnings(), as_without_a_default_device():
        warnings.simplefilter("ignore")
        for reduction in REDUCTIONS:
            assert torch.allclose(*(getattr(f, name)(x, t, reduction=reduction, weight=w) for f in (F, TF)))
    for dtype in (*FLOATS, torch.int64):
        args, weight = (rand((9,), torch.float32), rand((9,), torch.float32)), torch.ones(9, dtype=dtype)
        with as_without_a_default_device():
            results = [getattr(f, name)(*args, weight=weight, reduction="none") for f in (F, TF)]
        assert results[0].dtype == results[1].dtype and torch.allclose(*results)


@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str) -> None:
    inf, nan = float("inf"), float("nan")
    values = torch.tensor([inf, -inf, nan, 0.0, -0.0, 1.0, 3e38, -3e38, 1e-45])
    x, t = (v.flatten().clone().requires_grad_() for v in torch.meshgrid(values, values, indexing="ij"))
    ours, theirs = (getattr(f, name)(x, t, reduction="none") for f in (F, TF))
    assert torch.equal(ours.nan_to_num(0.5), theirs.nan_to_num(0.5)) and torch.equal(ours.isnan(), theirs.isnan())
    for a, b in zip(*(torch.autograd.grad(y.sum(), (x, t)) for y in (ours, theirs)), strict=True):
        assert torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)) and torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    f = getattr(F, name)
    # Away from the corners at 0 and beta.
    x = (torch.arange(12, dtype=torch.float64).reshape(4, 3) * 0.37 - 2.03).requires_grad_()
    t = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    for reduction in REDUCTIONS:
        check_gradients(lambda a, b, r=reduction: f(a, b, reduction=r), (x, t))
    if name in WEIGHTED:
        w = (torch.rand(4, 3, dtype=torch.float64) + 0.5).requires_grad_()
        for reduction in REDUCTIONS:
            check_gradients(lambda a, b, c, r=reduction: f(a, b, reduction=r, weight=c), (x, t, w))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = (torch.rand(3, dtype=torch.float64) * 0.1).requires_grad_()
        check_gradients(lambda a, b: f(a, b), (x, row))


def _op_cases() -> list[Any]:
    cases: list[Any] = []
    for name in NAMES:
        for code in (0, 1, 2):
            cases.append((name, code))
    return cases


@pytest.mark.parametrize(("name", "code"), _op_cases())
def test_opcheck(name: str, code: int) -> None:
    op, backward = getattr(torch.ops.fastgrad, name), getattr(torch.ops.fastgrad, f"{name}_backward")
    tail = (code, 0.7) if name == "smooth_l1_loss" else (code,)
    shapes = (((4, 3), (4, 3)), ((4, 1), (3,)), ((), ()))
    for a, b in shapes:
        x, t = rand(a, torch.float32).requires_grad_(), rand(b, torch.float32).requires_grad_()
        weights: list[Any] = (
            [()] if name == "smooth_l1_loss" else [(None,), (rand(a, torch.float32).abs().requires_grad_(),)]
        )
        for w in weights:
            check_op(op, (x, t, *w, *tail))
            grad = torch.ones_like(op(x, t, *w, *tail)).requires_grad_()
            check_op(backward, (grad, x, t, *w, *tail))
    for (_, x), (_, t) in zip(layouts(rand((4, 6), torch.float32)), layouts(rand((4, 6), torch.bfloat16)), strict=True):
        w = () if name == "smooth_l1_loss" else (None,)
        check_op(op, (x, t, *w, *tail))
        check_op(op, (x.contiguous(), t, *w, *tail))


@pytest.mark.parametrize("name", NAMES)
def test_compiles(name: str) -> None:
    f = getattr(F, name)
    for reduction in REDUCTIONS:
        x, t = rand((5, 7), torch.float32).requires_grad_(), rand((5, 7), torch.float32).requires_grad_()
        check_compiles(lambda a, b, r=reduction: f(a, b, reduction=r) * 2, (x, t))
    if name in WEIGHTED:
        w = rand((5, 7), torch.float32, 0.5, 1).requires_grad_()
        check_compiles(lambda a, b, c: f(a, b, weight=c), (x, t, w))


@pytest.mark.parametrize("name", NAMES)
def test_reproducible(name: str) -> None:
    shape = (small(300_001, 30_001),)
    x, t = rand(shape, torch.float32).requires_grad_(), rand(shape, torch.float32)

    def step() -> list[torch.Tensor]:
        loss = getattr(F, name)(x, t)
        return [loss, *torch.autograd.grad(loss, x)]

    check_reproducible(step)


@pytest.mark.parametrize("name", NAMES)
def test_large_mean_keeps_its_accuracy(name: str) -> None:
    shape = (small(3_000_017, 30_001),)
    x, t = rand(shape, torch.float32, 0, 1), rand(shape, torch.float32, 0, 1)
    ours, theirs, exact = (getattr(f, name)(a, b) for f, a, b in ((F, x, t), (TF, x, t), (TF, x.double(), t.double())))
    assert_accurate(ours, theirs, exact, 1)


def test_deprecated_arguments() -> None:
    x, t = rand((5,), torch.float32), rand((5,), torch.float32)
    for name in NAMES:
        for size_average in (None, True, False):
            for reduce in (None, True, False):
                with warnings.catch_warnings(record=True) as ours:
                    warnings.simplefilter("always")
                    a = getattr(F, name)(x, t, size_average, reduce)
                with warnings.catch_warnings(record=True) as theirs:
                    warnings.simplefilter("always")
                    b = getattr(TF, name)(x, t, size_average, reduce)
                assert torch.allclose(a, b)
                assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name: str) -> None:
    x, t = torch.ones(2), torch.ones(2)
    cases: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x, torch.ones(3)), {}),
        ((x, t), {"reduction": "x"}),
        ((x, t), {"reduction": None}),
        ((x, 1.0), {}),
        ((1.0, x), {}),
        ((x, None), {}),
        ((x,), {}),
        ((x, t), {"nonsense": 1}),
    ]
    if name == "smooth_l1_loss":
        cases += [((x, t), {"beta": -1.0}), ((x, t), {"beta": float("nan")}), ((x, t), {"beta": "a"})]
        cases += [((x.long(), t.long()), {}), ((x.bool(), t.bool()), {})]
    else:
        cases += [((x, t), {"weight": 1.0}), ((x, t), {"weight": torch.ones(1)})]
        cases += [((x, t), {"weight": torch.ones(2), "reduction": "x"})]
    if name == "l1_loss":
        cases += [((x.bool(), t), {}), ((x, t.bool()), {}), ((x.bool(), t.bool()), {})]
    if name == "mse_loss":
        cases += [((x.long(), t.long()), {}), ((x.bool(), t.bool()), {}), ((x.cfloat(), t.cfloat()), {})]
    with warnings.catch_warnings(), as_without_a_default_device():
        warnings.simplefilter("ignore")
        for args, kwargs in cases:
            check_same_error(
                lambda a=args, k=kwargs: getattr(F, name)(*a, **k),
                lambda a=args, k=kwargs: getattr(TF, name)(*a, **k),
                (name, args, kwargs),
            )


def test_unsupported_dtypes_are_named() -> None:
    with pytest.raises(NotImplementedError, match="l1_loss is not implemented for dtype Long"):
        F.l1_loss(torch.ones(2).long(), torch.ones(2).long(), reduction="sum")
    with pytest.raises(NotImplementedError, match="Complex"):
        F.l1_loss(torch.ones(2).cfloat(), torch.ones(2).cfloat())


def test_forward_mode_is_refused() -> None:
    import torch.autograd.forward_ad as fwad

    for name in NAMES:
        with fwad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
            getattr(F, name)(fwad.make_dual(torch.ones(2), torch.ones(2)), torch.ones(2))


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32, torch.float64))
def test_autocast(dtype: torch.dtype) -> None:
    x, t = rand((9,), dtype), rand((9,), dtype)
    for name in NAMES:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, theirs = (getattr(f, name)(x, t) for f in (F, TF))
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs)
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgrad::{name}", "AutocastCUDA")


def test_tutorial_values() -> None:
    # y = 2x by hand from w = 0: the losses of the first epochs.
    x, y = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 4, 6, 8])
    w = torch.zeros((), requires_grad=True)
    losses = []
    for _ in range(5):
        loss = F.mse_loss(w * x, y)
        losses.append(loss.item())
        (grad,) = torch.autograd.grad(loss * 4, w)
        with torch.no_grad():
            w -= 0.01 * grad
    assert losses == pytest.approx([30, 4.8, 0.768, 0.12288, 0.0196608], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_no_temporaries(name: str) -> None:
    """A reduced loss allocates nothing of the inputs' size; with its backward only the gradient."""
    n = small(1 << 20, 1 << 12)
    f = getattr(F, name)
    x, t = rand((n,), torch.float32).requires_grad_(), rand((n,), torch.float32)
    for _ in range(2):  # so that the incoming gradient is what the forward pass foresees
        torch.autograd.grad(f(x, t), x)
    (grad,), allocated = allocated_by(lambda: torch.autograd.grad(f(x, t), x))
    assert grad.nbytes <= allocated < grad.nbytes * 1.1 + WORKSPACE
