"""Values that a kernel finds unfit: classes out of bounds, probabilities outside [0, 1].

On the CPU they raise. On CUDA, and on the emulator, asking would make the host wait: they give NaN, and raise with
FASTGRAD_DEBUG=1.
"""

from __future__ import annotations

import math

import pytest
import torch
from checks import CHECKS_VALUES, rand, run_debugging

import fastgrad.functional as F

REDUCTIONS = ("none", "mean", "sum")
BAD = (7, -1, 4, 2**40, -(2**40))


@pytest.mark.skipif(not CHECKS_VALUES, reason="gives NaN on CUDA")
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("ours", (F.cross_entropy, F.nll_loss))
def test_class_out_of_bounds(ours, bad):
    with pytest.raises(IndexError, match=rf"Target {bad} is out of bounds.*position \[1\]"):
        ours(torch.zeros(3, 4), torch.tensor([0, bad, bad]))
    target = torch.zeros(2, 300, dtype=torch.long)
    target[1, 257] = bad
    with pytest.raises(IndexError, match=rf"Target {bad} is out of bounds.*position \[1, 257\]"):
        ours(torch.zeros(2, 4, 300), target, reduction="sum")
    with pytest.raises(IndexError, match=rf"Target {bad} is out of bounds"):
        ours(torch.zeros(4), torch.tensor(bad), reduction="none")


@pytest.mark.skipif(CHECKS_VALUES, reason="an IndexError: test_class_out_of_bounds")
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("shape", ((3, 4), (2, 4, 300), (2, 5000), (5, 33, 2)))
@pytest.mark.parametrize("weighted", (False, True))
def test_class_out_of_bounds_gives_nan_where_asking_would_wait(bad, shape, weighted):
    """Its row's loss and gradient are NaN, first and second; all other rows are as if it were not there."""
    bad += shape[1] - 4 if 0 < bad < 9 else 0
    good = torch.randint(0, shape[1], shape[:1] + shape[2:])
    good.view(-1)[0] = -100  # ignored
    spoilt = good.clone()
    spoilt.view(-1)[-1] = bad
    weight = torch.rand(shape[1]) + 0.5 if weighted else None
    others = torch.ones(good.shape, dtype=torch.bool)
    others.view(-1)[-1] = False
    for ours, kwargs in ((F.cross_entropy, {}), (F.cross_entropy, {"label_smoothing": 0.1}), (F.nll_loss, {})):
        x = rand(shape, torch.float32).requires_grad_()
        v = rand(shape, torch.float32)
        results = []
        for target in (spoilt, good):
            loss = ours(x, target, weight, reduction="none", **kwargs)
            (grad,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
            results.append([loss, grad.movedim(1, -1)])
            if ours is F.cross_entropy:
                results[-1].append(torch.autograd.grad(grad, x, v)[0].movedim(1, -1))
        for with_bad, without in zip(*results, strict=True):
            assert torch.equal(with_bad[others], without[others])
            assert with_bad[~others].isnan().all() and not without.isnan().any()
        for reduction in ("mean", "sum"):
            assert ours(x, spoilt, weight, reduction=reduction, **kwargs).isnan()
    # A sample without a batch.
    x = torch.zeros(4, requires_grad=True)
    loss = F.cross_entropy(x, torch.tensor(bad + 4 if 0 < bad < 9 else bad))
    assert loss.isnan() and torch.autograd.grad(loss, x)[0].isnan().all()


def test_class_out_of_bounds_when_debugging():
    assert run_debugging(OUT_OF_BOUNDS).splitlines() == [
        "Target 7 is out of bounds. It is at position [1] of target, and input has 4 classes.",
        "Target -3 is out of bounds. It is at position [1, 257] of target, and input has 4 classes.",
        "Target 9 is out of bounds. It is at position [] of target, and input has 4 classes.",
    ]


OUT_OF_BOUNDS = """
last = torch.zeros(2, 300, dtype=torch.long)
last[1, 257] = -3
for x, y, reduction in (
    (torch.zeros(3, 4), torch.tensor([0, 7, 8]), "mean"),
    (torch.zeros(2, 4, 300), last, "sum"),
    (torch.zeros(4), torch.tensor(9), "none"),
):
    messages = set()
    for loss in (F.cross_entropy, F.nll_loss):
        try:
            loss(x, y, reduction=reduction)
        except IndexError as error:
            messages.add(str(error).splitlines()[0])
    print(*messages)
assert F.cross_entropy(torch.zeros(2, 4), torch.tensor([3, -100])).isfinite()
"""


def test_elements_outside_are_named() -> None:
    inside, outside = torch.full((5,), 0.5), torch.tensor([0.5, 0.5, 1.5, 0.5, 0.5])
    for reduction in REDUCTIONS if CHECKS_VALUES else ():
        with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
            F.binary_cross_entropy(outside, inside, reduction=reduction)
        with pytest.raises(RuntimeError, match="all elements of target should be between 0 and 1"):
            F.binary_cross_entropy(inside, outside, reduction=reduction)
    # A NaN that comes from a weight is none of these.
    assert F.binary_cross_entropy(inside, inside, weight=torch.tensor(float("nan"))).isnan()


@pytest.mark.skipif(CHECKS_VALUES, reason="raises: test_elements_outside_are_named")
def test_elements_outside_give_nan_where_asking_would_wait() -> None:
    inside, outside = torch.full((5,), 0.5), torch.tensor([0.5, 1.5, 0.5, -0.1, float("nan")])
    for x, t in ((outside, inside), (inside, outside)):
        losses = F.binary_cross_entropy(x, t, reduction="none")
        assert losses.isnan().tolist() == [False, True, False, True, True]
        torch.testing.assert_close(losses[::2][:2], torch.full((2,), math.log(2)))
        for reduction in ("mean", "sum"):
            assert F.binary_cross_entropy(x, t, reduction=reduction).isnan()


def test_elements_outside_are_named_when_debugging() -> None:
    printed = run_debugging(OUTSIDE)
    assert printed.splitlines() == [f"all elements of {name} should be between 0 and 1" for name in ("input", "target")]


OUTSIDE = """
inside, outside = torch.full((5,), 0.5), torch.tensor([0.5, 0.5, 1.5, 0.5, 0.5])
for x, t, reduction in ((outside, inside, "none"), (inside, outside, "mean")):
    try:
        F.binary_cross_entropy(x, t, reduction=reduction)
    except RuntimeError as error:
        print(str(error).splitlines()[0])
assert F.binary_cross_entropy(inside, inside).isfinite()
"""
