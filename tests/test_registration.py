"""Every op is registered for the CPU, CUDA, autograd and fake tensors; autocast on CUDA does what torch's does.

No GPU is needed: tensors that only claim to be on one show what the dispatcher would run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch._library.utils import has_fake_kernel
from torch._subclasses import FakeTensorMode

import fastgrad.functional as F

OPS = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastgrad::"))

UNARY = ("relu", "sigmoid", "tanh", "neg", "abs", "sqrt", "exp", "log", "argmax", "argmin")
BINARY = ("add", "sub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum")
REDUCTIONS = ("sum", "mean", "prod", "var", "std", "max", "min", "amax", "amin", "logsumexp")
LOSSES = (
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "nll_loss"),
    *("l1_loss", "mse_loss", "smooth_l1_loss"),
)
Arguments = Callable[[torch.dtype], tuple[Any, ...]]


def cuda(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


# The arguments of each function for a dtype of its first tensor; other tensors are float32 where dtypes may differ.
CASES: dict[str, list[Arguments]] = {
    **{name: [lambda d: (cuda(3, 4, dtype=d),)] for name in UNARY},
    **{name: [lambda d: (cuda(3, 4, dtype=d), cuda(4, dtype=torch.float32))] for name in BINARY},
    **{name: [lambda d: (cuda(3, 4, dtype=d), 1)] for name in (*REDUCTIONS, "softmax", "log_softmax")},
    **{name: [lambda d: (cuda(3, 4, dtype=d), cuda(3, 4, dtype=d))] for name in LOSSES},
    "nll_loss": [lambda d: (cuda(3, 4, dtype=d), cuda(3, dtype=torch.int64))],
    "cross_entropy": [
        lambda d: (cuda(3, 4, dtype=d), cuda(3, dtype=torch.int64)),
        lambda d: (cuda(3, 4, dtype=d), cuda(3, 4, dtype=torch.float32)),
    ],
    **{
        name: [lambda d: (cuda(3, 4, dtype=d), cuda(4, 5, dtype=torch.float32)), lambda d: 2 * (cuda(4, 4, dtype=d),)]
        for name in ("mm", "matmul")
    },
    "bmm": [lambda d: (cuda(2, 3, 4, dtype=d), cuda(2, 4, 5, dtype=torch.float32))],
    "linear": [
        lambda d: (cuda(3, 4, dtype=d), cuda(5, 4, dtype=torch.float32), cuda(5, dtype=torch.float32)),
        lambda d: (cuda(3, 4, dtype=d), cuda(5, 4, dtype=d)),
    ],
}


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_registered(op: str) -> None:
    for key in ("CPU", "CUDA", "AutogradCPU", "AutogradCUDA"):
        keys = (key, "Autograd") if key.startswith("Autograd") else (key,)
        assert any(torch._C._dispatch_has_kernel_for_dispatch_key(op, k) for k in keys), key
    name, _, overload = op.removeprefix("fastgrad::").partition(".")
    assert has_fake_kernel(getattr(getattr(torch.ops.fastgrad, name), overload or "default"))


def test_every_function_has_a_case() -> None:
    public = {name for name in vars(F) if not name.startswith("_") and callable(getattr(F, name))}
    assert {name for name in public if not name.endswith("_")} == set(CASES)


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """torch.autocast("cuda"), which turns itself off where there is no GPU."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)
        torch.clear_autocast_cache()


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The dtypes that come out, or the exception's type."""
    try:
        result = function(*arguments)
    except Exception as error:
        return type(error)
    return [(t.dtype, t.device) for t in ([result] if isinstance(result, torch.Tensor) else result)]


@pytest.mark.parametrize("low", (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", sorted(CASES))
def test_autocast_on_cuda(name: str, low: torch.dtype) -> None:
    ours, theirs = getattr(F, name), getattr(TF if name in LOSSES or name == "linear" else torch, name)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for case in CASES[name]:
            with FakeTensorMode():
                arguments = case(dtype)
                with autocast(low):
                    assert outcome(ours, arguments) == outcome(theirs, arguments), (dtype, arguments)


def test_compiled_with_a_number_under_another_default_device() -> None:
    """The number is a CPU tensor in the traced graph, whatever the default device."""
    compiled = torch.compile(lambda x: F.add(x, 2), backend="aot_eager", fullgraph=True)
    x = torch.ones(3, device="cpu")
    with torch.device("meta"):
        assert compiled(x).tolist() == [3, 3, 3]
