"""Reduced losses whose forward pass leaves the gradient, for the incoming gradient of the time before.

Whatever comes in, and however often, the gradient must be that of the backward op, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from checks import EMULATED, EPS, FLOATS, allocated_by, rand
from torch.nn import functional as TF
from torch.utils.checkpoint import checkpoint

import fastgrad
import fastgrad.functional as F

pytestmark = [pytest.mark.cpu, pytest.mark.skipif(EMULATED, reason="about the kernels of the CPU")]

Loss = Callable[..., torch.Tensor]
POINTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
SIZES = (1 << 14, 100_003, (8 << 20) // 2 + 77)  # the last is written past the cache in every dtype
SHAPES = ((1 << 14, 1), (8209, 2), (6000, 10), (257, 1000), (127, 131), (9, 4097), (3, 32003), (5, 17, 13, 31))


def arguments(name: str, shape: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Input, which wants a gradient, and target: classes, or numbers of which some are 0 and 1."""
    if name == "cross_entropy":
        target = torch.randint(shape[1], (shape[0], *shape[2:]))
        target[torch.rand(target.shape) < 0.1] = -100
        return rand(shape, dtype, -9, 9).requires_grad_(), target
    x = rand(shape, dtype, 0, 1)
    target = torch.where(torch.rand(x.shape) < 0.5, rand(shape, dtype, 0, 1), rand(shape, dtype, 0, 1).round())
    return x.requires_grad_(), target


def backward_ops(f: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What f returns, and the backward ops that ran meanwhile."""
    with torch.profiler.profile() as profile:
        result = f()
    names = {event.name for event in profile.events()}
    return result, [n for n in names if n.startswith("fastgrad::") and n.endswith("_backward")]


def expect(f: Loss, x: torch.Tensor, *rest: torch.Tensor, incoming: float = 1.0, **settings: Any) -> torch.Tensor:
    """Let f foresee `incoming`; return it as a tensor."""
    loss = None
    for _ in range(2):
        loss = f(x, *rest, **settings)
        g = torch.full_like(loss, incoming)
        torch.autograd.grad(loss, x, g)
    return g


def check(f: Loss, x: torch.Tensor, target: torch.Tensor, incoming: float = 1.0, **settings: Any) -> torch.Tensor:
    """The loss as without a graph; the gradient foreseen, and the same bits when the graph is used again."""
    g = expect(f, x, target, incoming=incoming, **settings)
    with torch.no_grad():
        plain = f(x, target, **settings)
    loss = f(x, target, **settings)
    (early,), ops = backward_ops(lambda: torch.autograd.grad(loss, x, g, retain_graph=True))
    assert not ops
    (late,), ops = backward_ops(lambda: torch.autograd.grad(loss, x, g))
    assert len(ops) == 1
    assert torch.equal(loss, plain) and torch.equal(early, late)
    assert early.dtype == x.dtype and early.stride() == x.stride() and early.data_ptr() != late.data_ptr()
    return early


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name: str, reduction: str, dtype: torch.dtype) -> None:
    for n in SIZES:
        check(getattr(F, name), *arguments(name, (n,), dtype), incoming=0.75, reduction=reduction)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float, reduction: str, dtype: torch.dtype) -> None:
    settings = {"reduction": reduction, "label_smoothing": smoothing}
    for shape in SHAPES:
        check(F.cross_entropy, *arguments("cross_entropy", shape, dtype), incoming=0.75, **settings)
    x, target = arguments("cross_entropy", (2200, 1000), dtype)  # written past the cache in float32 and float64
    check(F.cross_entropy, x, target, **settings)
    check(F.cross_entropy, x, torch.randint(256, (2200,), dtype=torch.uint8), **settings)


@pytest.mark.parametrize("name", [*POINTWISE, "cross_entropy"])
def test_against_float64(name: str) -> None:
    x, target = arguments(name, (301, 97), torch.float32)
    early = check(getattr(F, name), x, target, incoming=-3.0)
    y = x.detach().double().requires_grad_()
    loss = getattr(TF, name)(y, target if name == "cross_entropy" else target.double())
    (exact,) = torch.autograd.grad(loss, y, torch.tensor(-3.0, dtype=torch.float64))
    assert (early - exact).abs().max() <= 16 * EPS[torch.float32] * exact.abs().max()


@pytest.mark.parametrize("name", POINTWISE)
def test_weights(name: str) -> None:
    """Weights of every element, or one for all, are read with the rest; others leave it to backward."""
    f: Any = getattr(F, name)
    x, target = arguments(name, (300, 70), torch.float32)
    one, row, each = (
        rand((), torch.float32, 0, 2),
        rand((70,), torch.float32, 0, 2),
        rand((300, 70), torch.float32, 0, 2),
    )
    accepted = {"smooth_l1_loss": (), "binary_cross_entropy_with_logits": ("weight", "pos_weight")}
    for argument in accepted.get(name, ("weight",)):
        for w in (one, each) if name.startswith("binary") else (each,):
            check(f, x, target, **{argument: w})
        if name.startswith("binary"):
            g = expect(f, x, target, **{argument: row})
            loss = f(x, target, **{argument: row})
            (late,), ops = backward_ops(lambda loss=loss, g=g: torch.autograd.grad(loss, x, g))
            assert len(ops) == 1
            torch.testing.assert_close(late, check(f, x, target, **{argument: row.expand(300, 70).contiguous()}))


@pytest.mark.parametrize("name", [*POINTWISE, "cross_entropy"])
def test_another_gradient_comes(name: str) -> None:
    f: Any = getattr(F, name)
    x, target = arguments(name, (200, 100), torch.float32)
    ones = check(f, x, target)
    for incoming in (2.0, 2.0, 0.0, -0.0, float("inf"), float("nan"), 2.0):  # whatever was foreseen
        loss = f(x, target)
        (gradient,) = torch.autograd.grad(loss, x, torch.tensor(incoming))
        (again,) = torch.autograd.grad(f(x, target), x, torch.tensor(incoming))
        torch.testing.assert_close(gradient, again, rtol=0, atol=0, equal_nan=True)
        if incoming == 2.0:
            assert torch.equal(gradient, ones * 2)
    # Alternating ones are not foreseen, and cost no second buffer.
    for incoming in (1.0, 3.0, 1.0, 3.0):
        loss = f(x, target)
        _, ops = backward_ops(lambda loss=loss, g=incoming: torch.autograd.grad(loss, x, torch.tensor(g)))
    assert len(ops) == 1


def test_gradients_are_not_shared() -> None:
    x, target = arguments("cross_entropy", (2000, 10), torch.float32)
    expected = check(F.cross_entropy, x, target)
    loss = F.cross_entropy(x, target)
    loss.backward(retain_graph=True)
    assert x.grad is not None
    x.grad.fill_(float("nan"))
    x.grad = None
    loss.backward()
    assert torch.equal(x.grad, expected)
    F.cross_entropy(x, target).backward()  # accumulated
    assert torch.equal(x.grad, expected * 2)


@pytest.mark.parametrize("name", [*POINTWISE, "cross_entropy"])
def test_second_derivatives(name: str) -> None:
    """With create_graph backward is an op that is differentiated, whatever forward left."""
    f: Any = getattr(F, name)
    x, target = arguments(name, (300, 60), torch.float64)
    reference = getattr(TF, name)
    if name == "binary_cross_entropy":
        x = rand(x.shape, x.dtype, 0.1, 0.9).requires_grad_()  # far from where its terms cancel

        def reference(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # torch's own second derivative adds 1e-12
            return -(t * x.log() + (1 - t) * (1 - x).log()).mean()

    v = rand(x.shape, torch.float64)
    check(f, x, target)
    results = []
    for g in (f, reference):
        (first,) = torch.autograd.grad(g(x, target), x, create_graph=True)
        (second,) = torch.autograd.grad((first * v).sum(), x, allow_unused=True)
        results.append((first, torch.zeros_like(x) if second is None else second))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 64 * EPS[torch.float64] * theirs.abs().max().clamp_min(1e-300)


def test_input_modified_since() -> None:
    leaf = rand((500, 40), torch.float32).requires_grad_()
    x, target = leaf * 1, torch.randint(40, (500,))
    expect(F.cross_entropy, leaf, target)
    loss = F.cross_entropy(x, target)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory() -> None:
    """One buffer of the input's size, the gradient: also if another one was foreseen, which makes room for it."""
    x, target = arguments("cross_entropy", (5000, 100), torch.float32)
    one = expect(F.cross_entropy, x, target)
    _, allocated = allocated_by(lambda: torch.autograd.grad(F.cross_entropy(x, target), x, one))
    assert x.nbytes <= allocated < 1.5 * x.nbytes
    fastgrad.empty_cache()
    torch.autograd.grad(F.cross_entropy(x, target), x, one * 2)
    assert fastgrad.cached_memory() < 1.5 * x.nbytes
    _, kept = allocated_by(lambda: F.cross_entropy(x, target, reduction="none"))
    assert kept < 0.1 * x.nbytes


def test_hooks_decide_what_is_kept() -> None:
    """Where saved tensors go elsewhere, or are made again, forward leaves nothing."""
    x, target = arguments("cross_entropy", (5000, 100), torch.float32)
    expected = check(F.cross_entropy, x, target)

    def run() -> torch.Tensor:
        return checkpoint(F.cross_entropy, x, target, use_reentrant=False)

    loss, allocated = allocated_by(run)
    assert allocated < 0.1 * x.nbytes
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
    with torch.autograd.graph.save_on_cpu():
        loss, allocated = allocated_by(lambda: F.cross_entropy(x, target))
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)


def test_gradient_of_the_target() -> None:
    x, target = arguments("mse_loss", (20_000,), torch.float32)
    expected = check(F.mse_loss, x, target)
    target.requires_grad_()
    by_x, by_target = torch.autograd.grad(F.mse_loss(x, target), (x, target))
    assert torch.equal(by_x, expected) and torch.equal(by_target, -expected)


def test_other_layouts() -> None:
    """What is not contiguous, or is broadcast, is left to backward."""
    x, target = arguments("mse_loss", (200, 150), torch.float32)
    expected = check(F.mse_loss, x, target)
    y, t = x.detach().T.contiguous().T.requires_grad_(), target.T.contiguous().T
    (transposed,) = torch.autograd.grad(F.mse_loss(y, t), y)
    assert torch.equal(transposed, expected)
    row = target[:1].clone()
    (broadcast,) = torch.autograd.grad(F.mse_loss(x, row.expand(200, 150)), x)
    assert torch.equal(broadcast, torch.autograd.grad(F.mse_loss(x, row.expand(200, 150).contiguous()), x)[0])


def test_class_out_of_bounds() -> None:
    x, target = arguments("cross_entropy", (2000, 10), torch.float32)
    expected = check(F.cross_entropy, x, target)
    wrong = target.clone()
    wrong[-1] = 10
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(x, wrong)
    assert torch.equal(torch.autograd.grad(F.cross_entropy(x, target), x)[0], expected)
    ignored = torch.full_like(target, -100)
    assert F.cross_entropy(x, ignored).isnan()
    (none,) = torch.autograd.grad(F.cross_entropy(x, ignored, reduction="sum"), x)
    assert torch.equal(none, torch.zeros_like(x))


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_any_number_of_threads(name: str) -> None:
    f: Any = getattr(F, name)
    x, target = arguments(name, (3001, 1001), torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append((f(x, target).detach(), check(f, x, target)))
    finally:
        torch.set_num_threads(threads)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(gradient, results[0][1])


def test_tiny_probabilities() -> None:
    """The clamp of the logarithms at -100, next to elements that need none."""
    for dtype in (torch.float32, torch.float64):
        x = rand((1009,), dtype, 0.01, 0.99)
        x[::7], x[1::7], x[2::7], x[3::7] = 0.0, 1.0, 1e-38, 1e-44
        x[4::7] = 1e-37 if dtype == torch.float32 else 1e-60
        for target in (rand((1009,), dtype, 0, 1).round(), rand((1009,), dtype, 0, 1)):
            ours = F.binary_cross_entropy(x, target, reduction="none")
            exact = TF.binary_cross_entropy(x.double(), target.double(), reduction="none")
            torch.testing.assert_close(ours.double(), exact, rtol=8 * EPS[dtype], atol=8 * EPS[dtype])
            # An element has the same bits whoever its neighbours are.
            alone = [F.binary_cross_entropy(x[i : i + 1], target[i : i + 1]) for i in range(0, 1009, 5)]
            assert torch.equal(torch.stack(alone), ours[::5])
