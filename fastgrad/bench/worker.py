"""A process that measures. There are two on the CPU: torch reads THP_MEM_ALLOC_ENABLE when a process starts.

Its instruction set as well: with a backend below the machine's best, torch is held to that backend's, as on a machine
that has no better.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["HUGE_PAGES", "PLAIN", "Worker", "WorkerError"]

PLAIN, HUGE_PAGES = "plain", "huge pages"
_KIND: dict[str, dict[str, str]] = {PLAIN: {}, HUGE_PAGES: {"THP_MEM_ALLOC_ENABLE": "1"}}
# What holds torch, its compiler and its libraries to the instruction set of a backend below the machine's own.
_INSTRUCTIONS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
# torch.compile heeds ATEN_CPU_CAPABILITY too, but its cache does not: without its own option it may load code that
# another run compiled for a wider instruction set. In bits; 1 stands for no vectors.
_COMPILED_WIDTH = {"avx2": 256, "default": 1}


class WorkerError(RuntimeError):
    """What went wrong in the process, in one line."""


class Worker:
    """One process; a call of a method here is one there."""

    def __init__(self, kind: str, backend: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        with _environment(_KIND[kind] | _INSTRUCTIONS.get(backend, {})):
            self._process = context.Process(target=_serve, args=(theirs, backend), daemon=True)
            # The process inherits this: Ctrl-C is for the command alone, which ends its processes.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self._process.start()
            finally:
                signal.signal(signal.SIGINT, handler)
        theirs.close()

    def call(self, method: str, *args: Any) -> Any:
        try:
            self._connection.send((method, args))
            failed, answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(5)
            raise WorkerError(f"the measuring process ended, exit status {self._process.exitcode}") from None
        if failed:
            raise WorkerError(answer)
        return answer

    def alive(self) -> bool:
        return self._process.is_alive()

    def close(self, patience: float = 5.0) -> None:
        """The process ends after its call, or is ended after so many seconds."""
        self._connection.close()
        self._process.join(patience)
        if self._process.is_alive():
            self._process.terminate()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """What a process that starts meanwhile finds set; a user's own huge pages must not reach the plain one."""
    known = variables.keys() | _KIND[HUGE_PAGES].keys()
    before = {name: os.environ.pop(name) for name in known if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _serve(connection: Connection, backend: str) -> None:
    import torch

    import fastgrad
    from fastgrad.bench import limits
    from fastgrad.bench.case import find
    from fastgrad.bench.measure import Session, one_line

    warnings.simplefilter("ignore")
    torch._functorch.config.donated_buffer = False  # a compiled backward may run again
    if backend in _COMPILED_WIDTH:
        from torch._inductor import config as inductor

        inductor.cpp.simdlen = _COMPILED_WIDTH[backend]
    fastgrad.backend(backend)
    _settle_malloc()
    session: Any = None
    while True:
        try:
            method, args = connection.recv()
        except (EOFError, OSError):  # the command has ended
            return
        failed = False
        try:
            if method == "open":
                key, device, threads, compiled, limit, seed = args
                session = None
                torch.set_num_threads(threads)
                torch.manual_seed(seed)
                session = Session(find(key), device, threads, compiled, limit)
                answer: Any = {"problems": session.problems, "traffic": session.traffic}
            elif method == "limits":
                torch.set_num_threads(*args)
                answer = limits.measure(*args)
            elif method in _OF_THE_PROCESS:
                answer = _OF_THE_PROCESS[method]()
            else:
                answer = getattr(session, method)(*args)
        except BaseException as error:  # one case; the next may do better
            session = None
            failed, answer = True, one_line(error)
        try:
            connection.send((failed, answer))
        except OSError:
            return


def _compiles() -> bool:
    """Raises where torch.compile does not work here."""
    import torch

    return torch.compile(lambda x: x * 2 + 1)(torch.ones(64)).sum().item() == 192.0


def _huge_pages() -> bool:
    """Whether a large tensor of torch lies on huge pages here."""
    import torch

    before = _anonymous_huge_pages()
    large = torch.ones(64 << 18)
    return _anonymous_huge_pages() - before > large.nbytes // 2


def _instructions() -> tuple[str, str]:
    """The instruction sets of torch's own kernels and of those that it compiles."""
    import torch
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return torch.backends.cpu.get_cpu_capability(), str(pick_vec_isa())


def _anonymous_huge_pages() -> int:
    """Bytes of this process on huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))


_OF_THE_PROCESS = {"compiles": _compiles, "huge_pages": _huge_pages, "instructions": _instructions}


def _settle_malloc() -> None:
    """Brings glibc's malloc to the state of a process that has run for a while.

    It keeps freed blocks of up to the largest mapped size it has seen freed (32 MiB at most): whether a case meets
    fresh pages would otherwise depend on the cases before it.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.free.argtypes = [ctypes.c_void_p]
        libc.free(libc.malloc(ctypes.c_size_t((32 << 20) - 8192)))
    except (OSError, AttributeError):
        pass  # another C library
