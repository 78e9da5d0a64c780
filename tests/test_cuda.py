"""What only CUDA tensors have: streams, graphs, several devices, no waiting; on a GPU, or on the pretended one.

Run with --device cuda, or --device pretended where there is no GPU: what that cannot show is skipped there.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from checks import EMULATED, ON_CUDA, PRETENDED, assert_accurate, rand, run_debugging
from matmul_cases import BUDGET

import fastgrad.functional as F
from fastgrad.bench.case import Case, load

if not ON_CUDA:
    pytest.skip("needs --device cuda, or pretended", allow_module_level=True)
on_a_gpu = pytest.mark.skipif(PRETENDED, reason="needs a GPU")
pretended = pytest.mark.skipif(not PRETENDED, reason="needs --device pretended")
two_devices = pytest.mark.skipif(not PRETENDED and torch.cuda.device_count() < 2, reason="needs two GPUs")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def small(case: Case) -> Case:
    large = case.op in ("matmul", "linear") and case.dtype.itemsize == 2 and not EMULATED
    # Large enough for the kernels of the tensor cores.
    return case.with_((1160, 136, 1160) if large else tuple(min(n, 37) for n in case.shape), case.dtype)


# Every op, with one case a variant and dtype; those of the benchmarks.
CASES = list({(c.op, c.variant, c.dtype): small(c) for c in load() if c.family != "training"}.values())
every_op = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.title} {c.dtype_name}".replace(" ", "-"))


def arguments(case: Case) -> list[Any]:
    return [a.detach() if isinstance(a, torch.Tensor) else a for a in case.args(case.shape, case.dtype)]


def differentiable(case: Case) -> bool:
    return any("backward" in which for which in case.passes)


def step(case: Case, args: list[Any]) -> list[torch.Tensor]:
    """The results, and the gradients of those arguments that have some."""
    wanted = [args[i] for i in case.gradients if args[i].requires_grad]
    out = case.ours(*args)
    outs = [out] if isinstance(out, torch.Tensor) else list(out)
    if wanted:
        outs += torch.autograd.grad(outs[0], wanted, torch.ones_like(outs[0]))
    return [o.detach() for o in outs]


def with_gradients(case: Case, args: list[Any]) -> list[Any]:
    if differentiable(case):
        for i in case.gradients:
            args[i].requires_grad_()
    return args


def same(results: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(results) == len(expected)
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# Streams.


@on_a_gpu
@every_op
def test_an_op_waits_for_its_stream(case: Case) -> None:
    """On a side stream that is busy, the op's arguments come late; on any other stream it would read what was there."""
    late = arguments(case)
    expected = step(case, with_gradients(case, [a.clone() if isinstance(a, torch.Tensor) else a for a in late]))
    args = [torch.zeros_like(a) if isinstance(a, torch.Tensor) else a for a in late]
    step(case, with_gradients(case, [a.clone() if isinstance(a, torch.Tensor) else a for a in args]))  # loads kernels
    args = with_gradients(case, args)
    torch.cuda.synchronize()
    stream, done = torch.cuda.Stream(), torch.cuda.Event()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(20_000_000)
        for a, b in zip(args, late, strict=True):
            if isinstance(a, torch.Tensor):
                a.copy_(b)
        with torch.enable_grad():
            results = step(case, args)
        done.record()
        assert not done.query()  # nothing has waited for the host's sake
    torch.cuda.current_stream().wait_event(done)
    same(results, expected)


@pretended
@every_op
def test_kernels_are_launched_on_the_current_stream(case: Case) -> None:
    gpu = sys.modules["pretended_gpu"].gpu
    args = with_gradients(case, arguments(case))
    stream = gpu.new_stream(0)
    before = gpu.launches(0), gpu.launches(1)
    gpu.set_stream(0, stream)
    try:
        step(case, args)
    finally:
        gpu.set_stream(0, 0)
    after = gpu.launches(0), gpu.launches(1)
    assert after[0][stream] > 0
    assert (after[0][:stream], after[1]) == (before[0][:stream], before[1])


@contextmanager
def never_waiting() -> Iterator[None]:
    gpu = sys.modules["pretended_gpu"].gpu if PRETENDED else None
    waits = gpu.waits() if gpu else 0
    if not gpu:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
        assert not gpu or gpu.waits() == waits
    finally:
        if not gpu:
            torch.cuda.set_sync_debug_mode("default")


@every_op
def test_nothing_waits_for_the_device(case: Case) -> None:
    """Neither for a value that the host reads nor for a copy to or from it: forward, backward, second derivative."""
    args = with_gradients(case, arguments(case))
    with never_waiting():
        step(case, args)
    if not differentiable(case) or case.out or case.op == "prod":  # whose second derivative is torch's cumprod's
        return
    wanted = [args[i] for i in case.gradients if args[i].requires_grad]
    out = case.ours(*args)
    out = out if isinstance(out, torch.Tensor) else out[0]
    v = torch.rand_like(out).requires_grad_()
    with never_waiting():
        grads = torch.autograd.grad(out, wanted, v, create_graph=True)
        torch.autograd.grad(grads, [v, *wanted], [torch.ones_like(g) for g in grads], allow_unused=True)


@pretended
def test_debugging_waits_after_every_kernel() -> None:
    """So that an error of a kernel is raised by the op that launched it."""
    counted = "gpu = pretended_gpu.gpu\nx = torch.rand(50, 7)\nF.softmax(F.add(x, x), 1).sum()\n"
    counted += "print(gpu.launches(0)[0], gpu.stream_waits(0, 0))"
    launches, waits = map(int, run_debugging(counted).split())
    assert launches == waits == 2
    assert sys.modules["pretended_gpu"].gpu.stream_waits(0, 0) == 0


# Products large enough for every engine and tile; one of a few rows or columns, and operands that the copy engine
# cannot read (odd strides).
PRODUCTS = [
    (1160, 1160, 136), (2049, 4352, 200), (300, 5000, 64), (129, 8193, 513), (777, 333, 555), (4096, 4096, 1031),
]  # fmt: skip


@on_a_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", PRODUCTS, ids=str)
def test_large_products(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """In every order of the operands, on results that were poisoned."""
    m, n, k = shape
    for a_transposed, b_transposed in itertools.product((False, True), repeat=2):
        a = rand((k, m), dtype).t() if a_transposed else rand((m, k), dtype)
        b = rand((n, k), dtype).t() if b_transposed else rand((k, n), dtype)
        out = torch.full((m, n), torch.nan, dtype=dtype)
        F.mm(a, b, out=out)
        what = (shape, a_transposed, b_transposed)
        scale, reference = a.double().abs() @ b.double().abs(), a.double() @ b.double()
        assert_accurate(out, a @ b, reference, BUDGET[dtype], scale, what)
        assert torch.equal(out, F.mm(a, b)), what


@on_a_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_batches(dtype: torch.dtype) -> None:
    """Batch dimensions that broadcast, or are out of order in memory."""
    a, b = rand((3, 4, 520, 136), dtype), rand((4, 136, 264), dtype)
    for x in (a, a.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3), a[:, :1], a.mT.contiguous().mT):
        for y in (b, b[:1], b.mT.contiguous().mT, b.flip(0)[None].expand(3, 4, 136, 264)):
            scale, reference = x.double().abs() @ y.double().abs(), x.double() @ y.double()
            assert_accurate(F.matmul(x, y), x @ y, reference, BUDGET[dtype], scale, (x.stride(), y.stride()))


@on_a_gpu
@pytest.mark.parametrize("activation", (None, "relu", "sigmoid", "tanh"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_linear(dtype: torch.dtype, activation: str | None) -> None:
    x, w, b = rand((1160, 136), dtype, -1, 1), rand((1160, 136), dtype, -1, 1), rand((1160,), dtype)
    function = getattr(torch, activation) if activation else lambda t: t
    wide = [t.double() for t in (x, w, b)]
    scale = TF.linear(*(t.abs() for t in wide))
    ours, theirs = F.linear(x, w, b, activation=activation), function(TF.linear(x, w, b))
    budget = BUDGET[dtype] + (2.5 if dtype.itemsize > 2 else 0)
    assert_accurate(ours, theirs, function(TF.linear(*wide)), budget, scale)


# Graphs.


@on_a_gpu
@every_op
def test_graph_capture(case: Case) -> None:
    """Captured once, forward and backward, and replayed on other values; memory comes from torch's pool alone."""
    if case.out:
        pytest.skip("in place: a replay would start from its own result")
    args = with_gradients(case, arguments(case))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(case, args)  # modules are loaded outside of a capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(case, args)
    for _ in range(2):
        fresh = arguments(case)
        with torch.no_grad():
            for a, b in zip(args, fresh, strict=True):
                if isinstance(a, torch.Tensor):
                    a.copy_(b)
        graph.replay()
        same(captured, step(case, with_gradients(case, fresh)))


@on_a_gpu
def test_graph_of_a_training_step() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
    import fastgrad

    fastgrad.swap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 20), torch.randint(0, 5, (32,))

    def train() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            train()
    torch.cuda.current_stream().wait_stream(side)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = train()
    curve = []
    for _ in range(5):
        graph.replay()
        curve.append(loss.item())
    model.load_state_dict(before)
    assert curve == pytest.approx([train().item() for _ in range(5)], rel=1e-5)
    assert curve[-1] < curve[0]


# Devices.


@contextmanager
def current_device(index: int) -> Iterator[Callable[[], int]]:
    gpu = sys.modules["pretended_gpu"].gpu if PRETENDED else torch.cuda
    before = gpu.current_device()
    gpu.set_device(index)
    try:
        yield gpu.current_device
    finally:
        gpu.set_device(before)


@two_devices
@every_op
def test_an_op_runs_where_its_tensors_are(case: Case) -> None:
    """On a device that is not the current one, which stays current; the results are those of the current one."""
    args = arguments(case)
    others = [a.to("cuda:1") if isinstance(a, torch.Tensor) else a for a in args]
    with current_device(0) as current:
        results = step(case, with_gradients(case, others))
        assert current() == 0
    assert {r.device for r in results} == {torch.device("cuda:1")}
    same([r.to("cuda:0") for r in results], step(case, with_gradients(case, args)))


@two_devices
@pretended
def test_kernels_are_launched_on_the_tensors_device() -> None:
    gpu = sys.modules["pretended_gpu"].gpu
    x = torch.ones(5, device="cuda:1")
    before = gpu.launches(0), sum(gpu.launches(1))
    F.add(x, x)
    assert gpu.launches(0) == before[0] and sum(gpu.launches(1)) == before[1] + 1


MIXED: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    **{name: getattr(F, name) for name in ("add", "sub", "mul", "div", "pow", "eq", "lt", "maximum", "minimum")},
    **{name: getattr(F, name) for name in ("add_", "mul_", "mm", "matmul", "linear", "mse_loss", "l1_loss")},
    **{name: getattr(F, name) for name in ("smooth_l1_loss", "binary_cross_entropy", "cross_entropy")},
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    "bmm": lambda a, b: F.bmm(a[None], b[None]),
    "out": lambda a, b: F.add(a, a, out=b),
    "out of a unary op": lambda a, b: F.exp(a, out=b),
    "out of a product": lambda a, b: F.mm(a, a, out=b),
    "out of a sum": lambda a, b: F.sum(a, 1, out=b[0]),
    "bias": lambda a, b: F.linear(a, a, b[0]),
    "weight of a loss": lambda a, b: F.binary_cross_entropy(a, a, weight=b),
    "weight of classes": lambda a, b: F.cross_entropy(a, torch.zeros(4, dtype=torch.long, device=a.device), b[0]),
    "class indices": lambda a, b: F.nll_loss(a, torch.zeros(4, dtype=torch.long, device=b.device)),
}


@pytest.mark.parametrize(
    "pair", (("cuda:0", "cpu"), ("cpu", "cuda:0"), pytest.param(("cuda:0", "cuda:1"), marks=two_devices))
)
@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_two_devices_are_refused(name: str, pair: tuple[str, str]) -> None:
    a, b = (torch.full((4, 4), 0.5, device=device) for device in pair)
    with pytest.raises(RuntimeError, match="device"):
        MIXED[name](a, b)
    assert b.eq(0.5).all() and a.eq(0.5).all()


@pytest.mark.parametrize("dtype", (*DTYPES, torch.int64, torch.uint8))
def test_a_number_on_the_cpu_joins_tensors_on_the_gpu(dtype: torch.dtype) -> None:
    """A CPU tensor without dimensions becomes a constant of the kernel, as in torch; one of a dimension is refused."""
    x = rand((3, 5), dtype, 1, 4)
    for value in (torch.tensor(3, dtype=dtype, device="cpu"), torch.tensor(2.5, device="cpu")):
        for name in ("add", "sub", "mul", "div", "maximum", "minimum", "lt", "eq"):
            ours, theirs = getattr(F, name), getattr(torch, name)
            for args in ((x, value), (value, x)):
                if name in ("maximum", "minimum") and value.dtype != dtype:
                    continue
                result, expected = ours(*args), theirs(*args)
                assert result.device == x.device and result.dtype == expected.dtype, name
                torch.testing.assert_close(result, expected)
    with pytest.raises(RuntimeError, match="device"):
        F.mul(x, torch.ones(1, dtype=dtype, device="cpu"))


def test_out_and_in_place() -> None:
    x, y = rand((4, 6), torch.float32, 1, 3), rand((6,), torch.float32, 1, 3)
    wide = torch.full((4, 12), 7.0)
    out = wide[:, ::2]
    assert F.mul(x, y, out=out) is out
    torch.testing.assert_close(out, x * y)
    assert wide[:, 1::2].eq(7).all()
    for name in ("add_", "sub_", "mul_", "div_"):
        a, b = x.clone(), x.clone()
        address = a.data_ptr()
        assert getattr(F, name)(a, y) is a and a.data_ptr() == address
        torch.testing.assert_close(a, getattr(b, name)(y))
    a = x - 2
    assert F.relu_(a) is a
    torch.testing.assert_close(a, (x - 2).clamp_min(0))
    narrow = torch.empty(4, 6, dtype=torch.bfloat16)
    torch.testing.assert_close(F.add(x, y, out=narrow), torch.add(x, y, out=torch.empty_like(narrow)))


# Autocast.


@on_a_gpu
@pytest.mark.parametrize("low", (torch.float16, torch.bfloat16), ids=str)
@every_op
def test_autocast(case: Case, low: torch.dtype) -> None:
    """torch's dtypes, and values within what the lower precision gives."""
    args = arguments(case)
    if case.out or case.op == "binary_cross_entropy":
        pytest.skip("in place, or refused")
    with torch.autocast("cuda", dtype=low):
        ours, theirs = case.ours(*args), case.theirs(*args)
    pairs = [(ours, theirs)] if isinstance(ours, torch.Tensor) else zip(ours, theirs, strict=True)
    for a, b in pairs:
        assert a.dtype == b.dtype
        if a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2)


@on_a_gpu
def test_autocast_of_probabilities_is_refused() -> None:
    x = torch.full((3,), 0.5)
    for loss in (F.binary_cross_entropy, TF.binary_cross_entropy):
        with torch.autocast("cuda"), pytest.raises(RuntimeError, match="unsafe to autocast"):
            loss(x, x)
