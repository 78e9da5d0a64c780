"""Checks that the tests of every pointwise loss share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import checks
import numpy as np
import torch

REDUCTIONS = ("none", "mean", "sum")
SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (3,), (17,), (127,), (128,), (129,), (7, 11), (0, 3), (33, 1, 5)),
    (checks.small(100003, 20011),),
)

Loss = Callable[..., torch.Tensor]
Array = Any  # numpy's long double: 80 bits on x86


class Reference(NamedTuple):
    """The elements of a loss and its derivatives, and the magnitude of the terms that cancel in these."""

    loss: Array
    by_input: Array
    by_target: Array
    input_scale: Array = 0.0
    target_scale: Array = 0.0


def check_values(
    ours: Loss,
    theirs: Loss,
    reference: Callable[..., Reference],
    x: torch.Tensor,
    t: torch.Tensor,
    ulps: float,
    **weights: Any,
) -> None:
    """The loss and both gradients in every reduction, against the reference and torch's own error."""
    arguments = {k: checks.wide(v) if isinstance(v, torch.Tensor) else v for k, v in weights.items()}
    exact = reference(checks.wide(x), checks.wide(t), **arguments)
    for reduction in REDUCTIONS:
        results = []
        for f in (ours, theirs):
            a, b = x.detach().requires_grad_(), t.detach().requires_grad_()
            out = f(a, b, reduction=reduction, **weights)
            grads = torch.autograd.grad(out, (a, b), torch.full_like(out, 0.5))
            results.append((out.detach(), *grads))
        scale = 0.5 / max(x.numel(), 1) if reduction == "mean" else 0.5
        reduced = {
            "none": lambda e: e,
            "sum": lambda e: np.sum(e),
            "mean": lambda e: np.sum(e) / e.size if e.size else np.nan,
        }[reduction](np.asarray(exact.loss))
        expected = (
            checks.narrow(reduced),
            checks.narrow(exact.by_input * scale),
            checks.narrow(exact.by_target * scale),
        )
        scales = (0.0, checks.narrow(exact.input_scale * scale), checks.narrow(exact.target_scale * scale))
        for name, o, th, ref, s in zip(("loss", "d input", "d target"), *results, expected, scales, strict=True):
            checks.assert_accurate(o, th, ref, ulps, s, what=(ours.__name__, name, tuple(x.shape), reduction))


def check_layouts(ours: Loss, theirs: Loss, x: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> None:
    """Any strides give the values of contiguous tensors, and "none" gives a result with torch's strides."""
    for name, a in checks.layouts(x):
        for other, b in checks.layouts(t):
            assert ours(a, b, reduction="none", **kwargs).stride() == theirs(a, b, reduction="none", **kwargs).stride()
            for reduction in REDUCTIONS:
                pairs = []
                for p, q in ((a, b), (a.contiguous(), b.contiguous())):
                    p = p.detach().requires_grad_()
                    out = ours(p, q, reduction=reduction, **kwargs)
                    pairs.append((out, torch.autograd.grad(out, p, torch.ones_like(out))[0]))
                for u, v in zip(*pairs, strict=True):
                    assert torch.allclose(u, v, rtol=1e-6, atol=0), (name, other, reduction)


def check_recurring_bugs(ours: Loss, theirs: Loss, x: torch.Tensor, t: torch.Tensor) -> None:
    """What users of other loss libraries reported."""
    # reduction="none" with a gradient that differs from element to element, expanded, or transposed.
    for grad in (torch.randn(x.shape), torch.randn(()).expand(x.shape), torch.randn(x.shape[::-1]).t()):
        a = x.detach().requires_grad_()
        mine, native = (torch.autograd.grad(f(a, t, reduction="none"), a, grad)[0] for f in (ours, theirs))
        assert torch.allclose(mine, native, rtol=1e-5, atol=1e-6)
    # A second backward through a retained graph accumulates; inputs keep their values and versions.
    a, before, version = x.clone().requires_grad_(), x.clone(), t._version
    loss = ours(a, t)
    loss.backward(retain_graph=True)
    first = a.grad.clone()
    loss.backward()
    assert torch.equal(a.grad, 2 * first) and torch.equal(a, before) and a._version == 0 and t._version == version
    # Only what needs a gradient gets one; without grad mode nothing is recorded.
    a = x.detach().requires_grad_()
    ours(a, t).backward()
    assert t.grad is None
    with torch.no_grad():
        assert not ours(a, t).requires_grad
    assert not ours(x, t).requires_grad
    # An input changed in place after the loss was computed is noticed.
    a = x.detach().requires_grad_()
    changed = t.clone()
    loss = ours(a, changed)
    changed.add_(0)
    try:
        loss.backward()
    except RuntimeError as e:
        assert "modified by an inplace operation" in str(e)
    else:
        raise AssertionError("a changed target went unnoticed")
    # Halves stay halves, in the loss and in the gradient.
    for dtype in (torch.bfloat16, torch.float16):
        a = x.to(dtype).requires_grad_()
        for reduction in REDUCTIONS:
            loss = ours(a, t.to(dtype), reduction=reduction)
            assert loss.dtype == dtype and torch.autograd.grad(loss.sum(), a)[0].dtype == dtype


def raised(f: Callable[[], Any]) -> type[BaseException] | None:
    try:
        f()
    except Exception as e:
        return type(e)
    return None


def check_same_error(ours: Callable[[], Any], theirs: Callable[[], Any], what: object) -> None:
    """Both raise, and the same type."""
    mine, native = raised(ours), raised(theirs)
    assert native is not None, f"{what}: torch does not raise"
    assert mine is native, f"{what}: {mine}, torch raises {native}"
