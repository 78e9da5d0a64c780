"""binary_cross_entropy and binary_cross_entropy_with_logits: values, weights, gradients, errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from checks import (
    CHECKS_VALUES,
    FLOATS,
    ON_CUDA,
    WORKSPACE,
    allocated_by,
    assert_accurate,
    check_compiles,
    check_gradients,
    check_op,
    check_reproducible,
    layouts,
    narrow,
    rand,
    small,
    wide,
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

BCE, LOGITS = "binary_cross_entropy", "binary_cross_entropy_with_logits"
NAMES = (BCE, LOGITS)


def _bce(x: Any, t: Any, weight: Any = 1.0) -> Reference:
    with np.errstate(divide="ignore"):
        log_x, log_y = np.log(x), np.log1p(-x)
    loss = -weight * (t * np.maximum(log_x, -100) + (1 - t) * np.maximum(log_y, -100))
    slope = weight / np.maximum(x * (1 - x), 1e-12)
    return Reference(
        loss, slope * (x - t), weight * (log_y - log_x), slope * (x + t) * 0.1, weight * (np.abs(log_x) + np.abs(log_y))
    )


def _logits(x: Any, t: Any, weight: Any = 1.0, pos_weight: Any = 1.0) -> Reference:
    tail = np.log1p(np.exp(-np.abs(x)))
    softplus, softplus_minus = tail + np.maximum(x, 0), tail + np.maximum(-x, 0)
    up, down = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
    a, b = (1 - t) * up, pos_weight * t * down
    return Reference(
        weight * (pos_weight * t * softplus_minus + (1 - t) * softplus),
        weight * (a - b),
        weight * (pos_weight * softplus_minus - softplus),
        np.abs(weight) * (np.abs(a) + np.abs(b)),
        np.abs(weight) * (pos_weight * softplus_minus + softplus),
    )


REFERENCES = {BCE: _bce, LOGITS: _logits}


def _make(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, hard: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    x = rand(shape, dtype, 0.02, 0.98) if name == BCE else rand(shape, dtype, -20, 20)
    t = rand(shape, dtype, 0, 1)
    return x, (t.round() if hard else t)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for hard in (False, True):
            x, t = _make(name, shape, dtype, hard)
            check_values(getattr(F, name), getattr(TF, name), REFERENCES[name], x, t, 5)


def test_confident_logits_keep_their_relative_accuracy() -> None:
    # Where the class is right, loss and gradient are about exp(-|x|): torch's formulas cancel, these must not.
    x = torch.linspace(-80, 80, 1601)
    t = (x > 0).float()
    exact = _logits(wide(x), wide(t))
    a = x.clone().requires_grad_()
    y = F.binary_cross_entropy_with_logits(a, t, reduction="none")
    (grad,) = torch.autograd.grad(y.sum(), a)
    for ours, reference in ((y.detach(), exact.loss), (grad, exact.by_input)):
        assert_accurate(ours, ours, narrow(reference), 8)
        error = ((ours.double() - narrow(reference)) / ours.double()).abs().max()
        assert error <= 8 * torch.finfo(torch.float32).eps


def test_probabilities_next_to_zero_and_one() -> None:
    for dtype in (torch.float32, torch.float64):
        tiny = torch.finfo(dtype).tiny
        x = torch.tensor([0.0, tiny / 4, tiny, 1e-30, 1e-7, 0.5, 1 - 1e-7, 1.0], dtype=dtype)
        for value in (0.0, 1.0, 0.25):
            t = torch.full_like(x, value)
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            ours, theirs = (
                F.binary_cross_entropy(a, t, reduction="none"),
                TF.binary_cross_entropy(b, t, reduction="none"),
            )
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=0)
            ga, gb = torch.autograd.grad(ours.sum(), a)[0], torch.autograd.grad(theirs.sum(), b)[0]
            assert torch.allclose(ga, gb, rtol=1e-5, atol=0)
            s = t.clone().requires_grad_()
            gs = [
                torch.autograd.grad(f(x, s, reduction="sum"), s)[0]
                for f in (F.binary_cross_entropy, TF.binary_cross_entropy)
            ]
            assert torch.allclose(*gs, rtol=1e-5, atol=1e-7)


def test_infinite_logits() -> None:
    inf, nan = float("inf"), float("nan")
    values = torch.tensor([inf, -inf, nan, 0.0, -0.0, 1.0, 200.0, -200.0, 5e37, -5e37])
    targets = torch.tensor([0.0, 1.0, 0.25, nan, 2.0])
    x, t = (v.flatten().clone().requires_grad_() for v in torch.meshgrid(values, targets, indexing="ij"))
    for kwargs in ({}, {"pos_weight": torch.tensor(3.0)}, {"weight": torch.tensor(0.5)}):
        ours, theirs = (f.binary_cross_entropy_with_logits(x, t, reduction="none", **kwargs) for f in (F, TF))
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)
        grads = [torch.autograd.grad(y.sum(), (x, t)) for y in (ours, theirs)]
        for a, b in zip(*grads, strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_weights_broadcast(name: str) -> None:
    ours, theirs, reference = getattr(F, name), getattr(TF, name), REFERENCES[name]
    keys = ("weight",) if name == BCE else ("weight", "pos_weight")
    shape = (6, 35)
    for w_shape in (shape, (35,), (6, 1), (1, 35), (), (1,), (1, 1)):
        for dtype in (torch.float32, torch.float64):
            x, t = _make(name, shape, dtype)
            for key in keys:
                check_values(ours, theirs, reference, x, t, 6, **{key: rand(w_shape, dtype, 0.1, 3)})
            if name == LOGITS:
                pair = {"weight": rand(w_shape, dtype, 0.1, 3), "pos_weight": rand((35,), dtype, 0.1, 3)}
                check_values(ours, theirs, reference, x, t, 6, **pair)
    x, t = _make(name, (3, 4, 5), torch.float32)
    for layout, w in layouts(rand((3, 4, 5), torch.float32, 0.1, 3)):
        for reduction in REDUCTIONS:
            a, b = (f(x.mT.contiguous().mT, t, weight=w, reduction=reduction) for f in (ours, theirs))
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5), (layout, reduction)
    for dtype in (*FLOATS, torch.int64):
        for key in keys:
            results = [f(x, t, reduction="none", **{key: torch.full((5,), 2, dtype=dtype)}) for f in (ours, theirs)]
            assert results[0].dtype == results[1].dtype and torch.allclose(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_layouts(name: str) -> None:
    check_layouts(getattr(F, name), getattr(TF, name), *_make(name, (5, 7, 3), torch.float32))
    check_layouts(getattr(F, name), getattr(TF, name), *_make(name, (300, 9), torch.float32))


@pytest.mark.parametrize("name", NAMES)
def test_recurring_bugs(name: str) -> None:
    check_recurring_bugs(getattr(F, name), getattr(TF, name), *_make(name, (5, 7), torch.float32))


def test_mixed_dtypes_of_logits() -> None:
    for a in FLOATS:
        for b in FLOATS:
            x, t = rand((33,), a), rand((33,), b, 0, 1)
            losses = _logits(wide(x), wide(t)).loss
            for reduction in REDUCTIONS:
                ours, theirs = (f.binary_cross_entropy_with_logits(x, t, reduction=reduction) for f in (F, TF))
                exact = losses if reduction == "none" else getattr(losses, reduction)()
                exact = narrow(exact)
                assert_accurate(ours, theirs, exact, 5, what=(a, b, reduction))
            x.requires_grad_(), t.requires_grad_()
            grads = torch.autograd.grad(F.binary_cross_entropy_with_logits(x, t), (x, t))
            assert grads[0].dtype == a and grads[1].dtype == b


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    f = getattr(F, name)
    x = rand((4, 3), torch.float64, 0.2, 0.8) if name == BCE else rand((4, 3), torch.float64)
    t = rand((4, 3), torch.float64, 0.2, 0.8)
    x.requires_grad_(), t.requires_grad_()
    weights: list[dict[str, torch.Tensor]] = [{}, {"weight": rand((3,), torch.float64, 0.5, 2)}]
    if name == LOGITS:
        weights.append({"pos_weight": rand((3,), torch.float64, 0.5, 2), "weight": rand((4, 1), torch.float64, 0.5, 2)})
    for kwargs in weights:
        for reduction in REDUCTIONS:
            check_gradients(lambda a, b, r=reduction, k=kwargs: f(a, b, reduction=r, **k), (x, t))


@pytest.mark.parametrize("code", (0, 1, 2))
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str, code: int) -> None:
    op = getattr(torch.ops.fastgrad, name)
    row = rand((3,), torch.float32, 0.5, 2)
    weights: list[tuple[Any, ...]] = [(None,), (row,)] if name == BCE else [(None, None), (row, None), (None, row)]
    for w in weights:
        x, t = (v.requires_grad_() for v in _make(name, (4, 3), torch.float32))
        check_op(op, (x, t, *w, code))
        grad = torch.ones_like(op(x, t, *w, code)).requires_grad_()
        check_op(getattr(torch.ops.fastgrad, f"{name}_backward"), (grad, x, t, *w, code))
        check_op(getattr(torch.ops.fastgrad, f"{name}_target_backward"), (grad, x, t, *w, code))
    xs, ts = _make(name, (4, 6), torch.float32)
    for (_, x), (_, t) in zip(layouts(xs), layouts(ts), strict=True):
        check_op(op, (x, t, *weights[0], code))
        check_op(op, (x.contiguous(), t, *weights[0], code))
        check_op(op, (x.detach().requires_grad_(), t.contiguous(), *weights[0], code))


@pytest.mark.parametrize("name", NAMES)
def test_compiles(name: str) -> None:
    f = getattr(F, name)
    for reduction in REDUCTIONS:
        x, t = (v.requires_grad_() for v in _make(name, (5, 7), torch.float32))
        check_compiles(lambda a, b, r=reduction: f(a, b, reduction=r) * 2, (x, t))
        w = rand((7,), torch.float32, 0.5, 1)
        check_compiles(lambda a, b, c, r=reduction: f(a, b, weight=c, reduction=r), (x, t, w))


@pytest.mark.parametrize("name", NAMES)
def test_reproducible(name: str) -> None:
    x, t = _make(name, (small(300_001, 30_001),), torch.float32)
    x.requires_grad_()

    def step() -> list[torch.Tensor]:
        loss = getattr(F, name)(x, t)
        return [loss, *torch.autograd.grad(loss, x)]

    check_reproducible(step)


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name: str) -> None:
    x, t = torch.full((2, 5), 0.5), torch.ones(2, 5)
    cases: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x, torch.ones(5)), {}),
        ((x, torch.ones(2, 5, 1)), {}),
        ((x, t), {"reduction": "x"}),
        ((x, t), {"reduction": None}),
        ((x, 1.0), {}),
        ((1.0, x), {}),
        ((x,), {}),
        ((x, t), {"nonsense": 1}),
        ((x.long(), t.long()), {}),
        ((x.bool(), t.bool()), {}),
        ((x, t.long()), {}),
        ((x, t.bool()), {}),
        ((x.cfloat(), t.cfloat()), {}),
        *(((x, t), {"weight": torch.ones(shape)}) for shape in ((3, 5), (3, 2, 5), (4,), (0,))),
        ((x, t), {"weight": torch.ones(5, requires_grad=True)}),
    ]
    if name == BCE:
        cases += [((x.to(a), t.to(b)), {}) for a in FLOATS for b in FLOATS if a != b]
        cases += [((x.long(), t), {})]
        # On a GPU, torch's own check of such values ends the process's use of it.
        for bad in (1.5, -0.1, float("nan"), float("inf")) if CHECKS_VALUES and not ON_CUDA else ():
            for reduction in REDUCTIONS:
                outside = torch.full((33,), 0.5)
                outside[17] = bad
                inside = torch.full((33,), 0.25)
                cases += [((outside, inside), {"reduction": reduction}), ((inside, outside), {"reduction": reduction})]
                cases += [((outside.double()[17], inside.double()[0]), {"reduction": reduction})]
    else:
        cases += [((x.long(), t), {}), ((x, t), {"weight": 1.0}), ((x, t), {"pos_weight": 1.0})]
        cases += [((x, t), {"pos_weight": torch.ones(shape)}) for shape in ((3, 5), (3, 2, 5), (4,), (0,))]
        cases += [((x, t), {"pos_weight": torch.ones(5, requires_grad=True)})]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for args, kwargs in cases:
            check_same_error(
                lambda a=args, k=kwargs: getattr(F, name)(*a, **k),
                lambda a=args, k=kwargs: getattr(TF, name)(*a, **k),
                (name, args, kwargs),
            )


def test_deprecated_arguments() -> None:
    for name in NAMES:
        x, t = _make(name, (5,), torch.float64)
        for size_average in (None, True, False):
            for reduce in (None, True, False):
                with warnings.catch_warnings(record=True) as ours:
                    warnings.simplefilter("always")
                    a = getattr(F, name)(x, t, None, size_average, reduce)
                with warnings.catch_warnings(record=True) as theirs:
                    warnings.simplefilter("always")
                    b = getattr(TF, name)(x, t, None, size_average, reduce)
                assert torch.allclose(a, b)
                assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]


def test_forward_mode_is_refused() -> None:
    import torch.autograd.forward_ad as fwad

    for name in NAMES:
        with fwad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
            getattr(F, name)(fwad.make_dual(torch.full((2,), 0.5), torch.ones(2)), torch.ones(2))


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", FLOATS)
def test_autocast_on_the_cpu(dtype: torch.dtype) -> None:
    for name in NAMES:
        x, t = _make(name, (9,), dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, theirs = (getattr(f, name)(x, t) for f in (F, TF))
        assert ours.dtype == theirs.dtype and torch.allclose(ours, theirs)


@pytest.mark.cpu
def test_autocast_on_cuda_refuses_probabilities_in_torchs_words() -> None:
    messages = []
    for op in (torch.ops.fastgrad.binary_cross_entropy.default, torch.ops.aten.binary_cross_entropy.default):
        with pytest.raises(RuntimeError) as error:
            op._op_dk(torch._C.DispatchKey.AutocastCUDA, torch.ones(2), torch.ones(2))
        messages.append(str(error.value).split("Exception raised")[0].strip())
    assert messages[0] == messages[1]
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgrad::{LOGITS}", "AutocastCUDA")


def test_tutorial_logistic_regression() -> None:
    """sigmoid + BCELoss as in the tutorials: torch's own curve from the same start."""
    x = torch.randn(60, 8)
    y = (x[:, :1] > 0).float()
    start = torch.randn(8, 1)
    curves = []
    for loss in (F.binary_cross_entropy, TF.binary_cross_entropy):
        w = start.clone().requires_grad_()
        curve = []
        for _ in range(30):
            value = loss(torch.sigmoid(x @ w), y)
            curve.append(value.item())
            (grad,) = torch.autograd.grad(value, w)
            with torch.no_grad():
                w -= 0.1 * grad
        curves.append(curve)
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_no_temporaries(name: str) -> None:
    """A reduced loss allocates nothing of the inputs' size; with its backward only the gradient."""
    n = small(1 << 20, 1 << 12)
    f = getattr(F, name)
    x, t = _make(name, (n,), torch.float32)
    x.requires_grad_()
    for _ in range(2):  # so that the incoming gradient is what the forward pass foresees
        torch.autograd.grad(f(x, t), x)
    (grad,), allocated = allocated_by(lambda: torch.autograd.grad(f(x, t), x))
    assert grad.nbytes <= allocated < grad.nbytes * 1.1 + WORKSPACE
