"""Measures one case in this process: the contenders' times in interleaved rounds, peak memory and errors.

The contenders are fastgrad, torch, torch.compile ("compile") and, where this process measures it, the machine's limit
for the same traffic ("limit"): a copy of as many bytes as are written into a tensor allocated as outputs are, and a
read of what else is read; or as many multiply-adds.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch.utils.benchmark import Timer

from fastgrad.bench import limits
from fastgrad.bench.case import FORWARD, Case
from fastgrad.bench.clock import clock

__all__ = ["Session", "one_line"]

_ROTATED_BYTES = 128 << 20  # of arguments: a call does not find its predecessor's in the cache
_MOST_SETS = 8
_BLOCK = 0.01  # seconds of calls in a round, at least
_PATIENCE = 8.0  # seconds of a call of torch, of which a case makes twenty: bfloat16 products on a CPU without them


class Session:
    """One case, prepared; `round(which)` times one block of calls of every contender."""

    def __init__(self, case: Case, device: str, threads: int, compiled: bool, limit: bool) -> None:
        self.case, self.device, self.threads = case, device, threads
        self.problems: list[str] = []
        self.calls: dict[str, Callable[..., Any]] = {"fastgrad": case.ours, "torch": case.theirs}
        if compiled and case.compiled:
            torch._dynamo.reset()
            self.calls["compile"] = torch.compile(case.theirs, dynamic=False)
        first = _arguments(case, device)
        sets = max(2, min(_MOST_SETS, _ROTATED_BYTES // max(1, _bytes(first))))
        self.sets = [first, *(_arguments(case, device) for _ in range(sets - 1))]
        self.timers: dict[str, dict[str, Timer]] = {}
        self.traffic: dict[str, dict[str, float]] = {}
        self.scale: dict[str, float] = {}  # how many times over the measured limit is meant
        start = perf_counter()
        result = case.theirs(*_detached(first))
        if (took := perf_counter() - start) > _PATIENCE:
            raise TimeoutError(f"not measured, since a call of torch takes {took:.0f} s")
        self.single = isinstance(result, torch.Tensor)
        # Incoming gradients, one a set.
        self.seeds = [_like(_first(result)) for _ in self.sets] if set(case.passes) - set(FORWARD) else []
        del result
        for which in case.passes:
            self._prepare(which, limit)

    def _prepare(self, which: str, limit: bool) -> None:
        timers: dict[str, Timer] = {}
        for name, call in list(self.calls.items()):
            try:
                timers[name] = self._timer(which, call)
                if name == "compile":
                    timers[name].timeit(1)
            except Exception as error:
                if name != "compile":
                    raise
                self.problems.append(f"torch.compile: {one_line(error)}")
                del self.calls[name]
        traffic = _traffic(self.case, which, self.sets[0], self.case.theirs)
        self.traffic[which] = traffic
        if limit and which != "step":
            step = limits.step(self.case, traffic, self.device)
            if step is not None:
                timers["limit"] = self._clocked("y = f()", {"f": step[0]})
                self.scale[which] = step[1]
        self.timers[which] = timers

    def _timer(self, which: str, call: Callable[..., Any]) -> Timer:
        """A call takes the next set of arguments; its result lives until the next one replaces it."""
        case = self.case
        grad = torch.autograd.grad
        work: list[tuple[Any, ...]] = []
        if which in FORWARD:
            work = [tuple(_detached(args)) for args in self.sets]
            names = ", ".join(f"a{i}" for i in range(len(work[0])))
            statement = f"{names}, = draw()\ny = f({names})" if names else "draw()\ny = f()"
        else:
            for args, seed in zip(self.sets, self.seeds, strict=True):
                leaves = _recording(case, args)
                wanted = [leaves[i] for i in case.gradients]
                start = [_first(call(*leaves))] if which == "backward" else leaves
                work.append((*start, wanted, seed))
            names = ", ".join(f"a{i}" for i in range(len(work[0]) - 2))
            if which == "backward":
                statement = f"{names}, x, seed = draw()\nd = grad({names}, x, seed, retain_graph=True)"
            else:
                result = f"f({names})" if self.single else f"first(f({names}))"
                statement = f"{names}, x, seed = draw()\ny = {result}\nd = grad(y, x, seed)"
        scope = {"draw": itertools.cycle(work).__next__, "f": call, "grad": grad, "first": _first}
        return self._clocked(statement, scope)

    def _clocked(self, statement: str, scope: dict[str, Any]) -> Timer:
        return Timer(statement, globals=scope, num_threads=self.threads, timer=clock(self.device))

    def round(self, which: str) -> dict[str, float]:
        """Seconds a call, of each contender, in another order each time; "spent" is what the round took."""
        timers = list(self.timers[which].items())
        random.shuffle(timers)
        seconds = {}
        start = perf_counter()
        for name, timer in timers:
            seconds[name] = timer.blocked_autorange(min_run_time=_BLOCK).median
        if "limit" in seconds:
            seconds["limit"] *= self.scale[which]
        seconds["spent"] = perf_counter() - start
        return seconds

    def memory(self, which: str) -> dict[str, int]:
        """The most bytes that a call needs beyond its arguments, its result included."""
        if which == "step":
            return {}  # the model's gradients are older than the record of allocations
        peak = _peak if self.device == "cpu" else _gpu_peak
        calls = {name: _prepared(self.case, which, self.calls[name], self.sets[0]) for name in ("fastgrad", "torch")}
        return {name: peak(call) for name, call in calls.items()}

    def errors(self, which: str) -> dict[str, float]:
        """The norm of the error over the norm of the results or gradients, against torch's float64."""
        case, args = self.case, self.sets[0]
        if not case.reference or case.dtype == torch.float64 or which == "backward":
            return {}
        exact = _results(case, which, case.theirs, [_double(a) for a in args])
        errors = {}
        for name in ("fastgrad", "torch"):
            pairs = zip(_results(case, which, self.calls[name], args), exact, strict=True)
            errors[name] = max((_error(y, reference) for y, reference in pairs), default=0.0)
        return errors


def one_line(error: BaseException) -> str:
    """The first line of a message, without what torch appends."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]


def _arguments(case: Case, device: str) -> tuple[Any, ...]:
    with torch.device(device):
        return case.args(case.shape, case.dtype)


def _detached(args: Sequence[Any]) -> list[Any]:
    return [a.detach() if isinstance(a, torch.Tensor) else a for a in args]


def _recording(case: Case, args: Sequence[Any]) -> list[Any]:
    fresh = _detached(args)
    for i in case.gradients:
        fresh[i].requires_grad_()
    return fresh


def _like(out: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(out) if out.dim() == 0 else torch.rand_like(out)


def _double(a: Any) -> Any:
    return a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a


def _first(out: Any) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out[0]


def _tensors(values: Any) -> list[torch.Tensor]:
    return [v for v in ((values,) if isinstance(values, torch.Tensor) else values) if isinstance(v, torch.Tensor)]


def _bytes(values: Any) -> int:
    """Of the memory behind some tensors: an expanded one is small, a strided one is what it is a part of."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(values)}
    return sum(storages.values())


def _results(case: Case, which: str, call: Callable[..., Any], args: Sequence[Any]) -> list[torch.Tensor]:
    """The outputs of the forward pass, or the gradients."""
    args = [a.clone() if case.out and isinstance(a, torch.Tensor) else a for a in args]
    if which in FORWARD:
        return _tensors(call(*_detached(args)))
    args = _recording(case, args)
    out = _first(call(*args))
    # The same incoming gradient for each contender, and for the reference in float64.
    generator = torch.Generator(out.device).manual_seed(0)
    seed = torch.rand(out.shape, generator=generator, device=out.device).to(case.dtype).to(out.dtype)
    return list(torch.autograd.grad(out, [args[i] for i in case.gradients], seed))


def _error(y: torch.Tensor, reference: torch.Tensor) -> float:
    if not y.is_floating_point():
        return (y != reference).double().mean().item()
    return ((y - reference).norm() / reference.norm().clamp_min(1e-300)).item()


def _traffic(case: Case, which: str, args: Sequence[Any], call: Callable[..., Any]) -> dict[str, float]:
    """Bytes that have to be read and written, arithmetic operations, and the bytes of the first argument."""
    out = call(*_detached(args))
    arguments, results = _bytes(args), _bytes(out)
    first = _bytes(args[:1])
    if case.out and _first(out).data_ptr() != args[0].data_ptr():
        arguments -= results  # out= is not read
    # By our own gradients: that of a sum is one number, expanded.
    gradients = _bytes(_results(case, which, case.ours, args)) if which not in FORWARD else 0
    incoming = results if which not in FORWARD and _first(out).dim() else 0
    flops = case.flops(case.shape) if case.flops else 0.0
    if which in FORWARD:
        return {"read": arguments, "written": results, "flops": flops, "first": first}
    # A backward pass reads what the forward one saved, as much as the arguments, and the incoming gradient.
    backward = {
        "read": arguments + incoming,
        "written": gradients,
        "flops": flops * case.backward_flops,
        "first": first,
    }
    if which == "backward":
        return backward
    together = case.loss and _first(out).dim() == 0
    return {
        "read": arguments if together else arguments + backward["read"],
        "written": results + gradients,
        "flops": flops + backward["flops"],
        "first": first,
    }


def _prepared(case: Case, which: str, call: Callable[..., Any], args: Sequence[Any]) -> Callable[[], Any]:
    """One pass, as a function; what it needs exists already."""
    if which in FORWARD:
        arguments = _detached(args)
        return lambda: call(*arguments)
    leaves = _recording(case, args)
    wanted = [leaves[i] for i in case.gradients]
    if which == "backward":
        out = _first(call(*leaves))
        seed = torch.ones_like(out)
        return lambda: torch.autograd.grad(out, wanted, seed, retain_graph=True)

    def both() -> Any:
        result = call(*leaves)
        return torch.autograd.grad(_first(result), wanted, torch.ones_like(_first(result)))

    return both


def _peak(call: Callable[[], Any]) -> int:
    """The high-water mark of torch's allocations during a call, from the profiler's record of each of them."""
    with _silent(), torch.profiler.profile(profile_memory=True) as profile:
        result = call()
    del result
    now = most = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def _gpu_peak(call: Callable[[], Any]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def _silent() -> Iterator[None]:
    """Without standard error: torch's profiler prints from C++ when it starts and stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
