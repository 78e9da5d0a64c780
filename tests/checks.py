"""Checks that the tests of every family share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils._pytree import tree_map_only

import fastgrad

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.uint8)

# One unit in the last place of 1.0.
EPS = {dtype: torch.finfo(dtype).eps for dtype in FLOATS}

# Where the suite makes its tensors: pytest --device.
ON_CUDA = torch.get_default_device().type == "cuda"
PRETENDED = "pretended_gpu" in sys.modules
EMULATED = PRETENDED or (fastgrad.active_backend() == "emulated" and not ON_CUDA)
# Whether a class out of bounds or a probability above 1 raises: on CUDA it gives NaN, unless debugging.
CHECKS_VALUES = not (ON_CUDA or EMULATED) or os.environ.get("FASTGRAD_DEBUG", "0") not in ("", "0")
# What CUDA's kernels ask for besides their results.
WORKSPACE = 1 << 20 if ON_CUDA or EMULATED else 0
# For tests that the active backend has no part in.
once = pytest.mark.skipif(fastgrad.active_backend() != fastgrad.backends()[0], reason="once is enough")


def small(full: Any, emulated: Any) -> Any:
    """Return the first; on the emulator, whose threads are fibers, the second."""
    return emulated if EMULATED else full


def wide(x: torch.Tensor) -> Any:
    """Return the values as numpy's long double: 80 bits on x86."""
    return x.detach().double().cpu().numpy().astype(np.longdouble)


def narrow(x: Any) -> torch.Tensor:
    """Return an array of numpy's as a float64 tensor, rounded once; beyond its range, infinity."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.asarray(x, dtype=np.float64)).to(torch.get_default_device())


def as_without_a_default_device() -> Any:
    """A context for calls of torch's losses.

    Under a default device torch 2.13's l1_loss forgets its weight, and warnings name torch's file.
    """
    return torch._C.DisableTorchFunction()


def on_the_cpu(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch's, called with copies of its arguments on the CPU; results come back to the suite's device.

    What an op takes and what it says when it refuses is in fastgrad the same on every device: what torch does on the
    CPU. torch's CUDA has no products of integers, takes other dtypes and words its errors differently.
    """
    if not ON_CUDA:
        return f

    def copied(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, lambda x: x.cpu(), (args, kwargs))
        return tree_map_only(torch.Tensor, lambda y: y.to(torch.get_default_device()), f(*args, **kwargs))

    return copied


def allocated_by(f: Callable[[], Any]) -> tuple[Any, int]:
    """What f returns, and the bytes that torch's allocator gave meanwhile."""
    with torch.profiler.profile(profile_memory=True) as profile:
        result = f()
    usage = "self_device_memory_usage" if ON_CUDA else "self_cpu_memory_usage"
    return result, sum(max(getattr(event, usage), 0) for event in profile.events())


def rand(shape: Sequence[int], dtype: torch.dtype, low: float = -3, high: float = 3) -> torch.Tensor:
    """Return fresh random values, uniform in [low, high] (whole numbers for integers, coin flips for bool)."""
    if dtype == torch.bool:
        return torch.rand(tuple(shape)) < 0.5
    if not dtype.is_floating_point:
        low = max(low, torch.iinfo(dtype).min)
        return torch.randint(int(low), int(high) + 1, tuple(shape), dtype=dtype)
    return torch.empty(tuple(shape), dtype=torch.float64).uniform_(low, high).to(dtype)


def layouts(x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors of x's shape and dtype with every kind of stride; all but the expanded one hold x's values."""
    yield "contiguous", x.contiguous()
    if x.dim() == 0:
        return
    padded = torch.full([2 * n + 1 for n in x.shape], 77, dtype=x.dtype)
    sliced = padded[tuple(slice(1, 2 * n + 1, 2) for n in x.shape)]
    yield "sliced", sliced.copy_(x)
    offset = torch.full((x.numel() + 1,), 77, dtype=x.dtype)[1:].view(x.shape)
    yield "offset", offset.copy_(x)
    if x.dim() > 1:
        yield "transposed", x.transpose(0, -1).contiguous().transpose(0, -1)
        yield "flipped", x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    if x.shape[0] > 0:
        yield "expanded", x[:1].expand(x.shape)


def relative_error(actual: torch.Tensor, reference: torch.Tensor, scale: torch.Tensor | float = 0.0) -> float:
    """Return the largest |actual - reference| / max(|reference|, scale); infinities and NaN must agree exactly.

    Infinity is exact where the reference is beyond the range of actual's dtype.
    """
    actual, reference = actual.detach(), reference.double()
    assert actual.shape == reference.shape, f"shape {tuple(actual.shape)}, expected {tuple(reference.shape)}"
    if actual.is_floating_point():
        beyond = actual.isinf() & (reference.abs() > torch.finfo(actual.dtype).max)
        reference = torch.where(beyond, reference.sign() * torch.inf, reference)
    actual = actual.double()
    special = ~reference.isfinite()
    assert torch.equal(actual[special].nan_to_num(0.5), reference[special].nan_to_num(0.5)), (
        f"special values differ: {actual[special]} expected {reference[special]}"
    )
    finite = ~special
    error = (actual - reference).abs()[finite]
    scale = torch.as_tensor(scale, dtype=torch.float64, device=reference.device)
    size = torch.maximum(reference.abs(), scale.expand_as(reference))[finite]
    return (error / size.clamp_min(1e-300)).max().item() if error.numel() else 0.0


def assert_accurate(
    ours: torch.Tensor,
    theirs: torch.Tensor,
    reference: torch.Tensor,
    ulps: float,
    scale: torch.Tensor | float = 0.0,
    what: object = "",
) -> None:
    """The numerics rule: our error against the reference is at most torch's own, or `ulps` units in the last place.

    `reference` is computed in a higher precision than the dtype under test. `scale` is what errors are relative to
    where it exceeds the reference: for a sum, the sum of magnitudes.
    """
    assert ours.dtype == theirs.dtype, f"{what}: dtype {ours.dtype}, torch gives {theirs.dtype}"
    our_error = relative_error(ours, reference.to(ours.dtype) if ours.dtype == torch.bool else reference, scale)
    their_error = relative_error(theirs, reference, scale)
    budget = ulps * EPS.get(ours.dtype, 0)  # integers are exact
    assert our_error <= max(budget, their_error), (  # in this order: an error of torch's that is NaN allows nothing
        f"{what}: error {our_error:.3g}, torch {their_error:.3g}, budget {budget:.3g}"
    )


def check_gradients(f: Callable[..., Any], inputs: Sequence[Any], second: bool = True) -> None:
    """Gradcheck and gradgradcheck in float64, with contiguous, transposed and expanded inputs and gradients."""
    tensors = [i for i, x in enumerate(inputs) if isinstance(x, torch.Tensor) and x.requires_grad]
    variants = [list(inputs)]
    for i in tensors:
        for name, view in layouts(inputs[i].detach()):
            if name in ("transposed", "sliced"):
                variant = list(inputs)
                variant[i] = view.requires_grad_()
                variants.append(variant)
    for k, variant in enumerate(variants):
        assert gradcheck(f, tuple(variant))
        if second and k < 2:
            assert gradgradcheck(f, tuple(variant))
    # An expanded input: gradcheck wants no aliasing within an input, so expand inside the function.
    for i in tensors:
        x = inputs[i]
        if x.dim() == 0 or x.shape[0] == 0:
            continue
        row = x.detach()[:1].clone().requires_grad_()

        def expanded(row: torch.Tensor, i: int = i, shape: torch.Size = x.shape) -> Any:
            return f(*inputs[:i], row.expand(shape), *inputs[i + 1 :])

        assert gradcheck(expanded, (row,))
    # Gradients that arrive expanded (from sum) or transposed.
    for weights in ("expanded", "transposed"):
        out = f(*inputs)
        out = out if isinstance(out, torch.Tensor) else next(o for o in out if o.is_floating_point())
        grad = torch.ones((), dtype=out.dtype).expand(out.shape)
        if weights == "transposed":
            grad = torch.randn(tuple(reversed(out.shape)), dtype=out.dtype).permute(tuple(reversed(range(out.dim()))))
        ours = torch.autograd.grad(out, [inputs[i] for i in tensors], grad, retain_graph=True, allow_unused=True)
        dense = torch.autograd.grad(out, [inputs[i] for i in tensors], grad.contiguous(), allow_unused=True)
        for a, b in zip(ours, dense, strict=True):
            assert (a is None) == (b is None), f"{weights} gradient"
            if a is not None:  # a layout may change the order of a sum
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=f"{weights} gradient")


def check_op(op: Any, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> None:
    """torch's own check of a registered op: schema, autograd registration, fake kernel, AOT dispatch."""
    opcheck(op, tuple(args), kwargs or {})


def check_compiles(f: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """torch.compile(fullgraph=True) gives the same outputs and gradients as eager."""
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    _same(f(*inputs), compiled(*inputs))
    tensors = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    if tensors:
        grads = [torch.autograd.grad(_scalar(g(*inputs)), tensors) for g in (f, compiled)]
        # The compiled backward may add up the gradients of one tensor in another order.
        torch.testing.assert_close(*grads)


def _scalar(out: Any) -> torch.Tensor:
    outs = [out] if isinstance(out, torch.Tensor) else list(out)
    return torch.stack([(o * o).sum() for o in outs if o.is_floating_point()]).sum()


def _same(a: Any, b: Any) -> None:
    if not isinstance(a, torch.Tensor):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same(x, y)
        return
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
    assert torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)) if a.is_floating_point() else torch.equal(a, b)


def run_debugging(code: str) -> str:
    """What a program prints with FASTGRAD_DEBUG=1 and the suite's device; `import fastgrad.functional as F` is done."""
    prologue = "import sys, torch\n"
    if PRETENDED:
        prologue += (
            f"sys.path.insert(0, {os.path.dirname(__file__)!r})\nimport pretended_gpu\npretended_gpu.install()\n"
        )
    prologue += f"torch.set_default_device({torch.get_default_device().type!r})\nimport fastgrad.functional as F\n"
    result = subprocess.run(
        [sys.executable, "-c", prologue + code],
        env=os.environ | {"FASTGRAD_DEBUG": "1", "FASTGRAD_BACKEND": fastgrad.active_backend()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def check_reproducible(f: Callable[[], Any]) -> None:
    """The same bits with one thread, with two, and again with two."""
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 2, 3):
            torch.set_num_threads(n)
            results.append(f())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        _same(results[0], other)


def same(ours: torch.Tensor, theirs: torch.Tensor, what: object = "") -> None:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (what, ours.dtype, theirs.dtype)
    assert ours.stride() == theirs.stride(), (what, ours.stride(), theirs.stride())
    if ours.is_floating_point():
        assert torch.equal(ours.isnan(), theirs.isnan()), (what, ours, theirs)
        ours, theirs = ours.nan_to_num(0.5), theirs.nan_to_num(0.5)
    assert torch.equal(ours, theirs), (what, ours, theirs)
