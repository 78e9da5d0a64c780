"""Which kernels serve CPU tensors."""

from __future__ import annotations

from types import TracebackType

from fastgrad import _C


def backends() -> list[str]:
    """Return the names of the backends that this build has and this CPU can run, the fastest first."""
    return _C.backends()


def active_backend() -> str:
    """Return the name of the backend that serves CPU tensors."""
    return _C.active_backend()


class backend:
    """Force the backend that serves CPU tensors: `fastgrad.backend("avx2")`.

    The choice holds at once and for the whole process; as a context manager, until the block ends. CUDA tensors are not
    affected. The environment variable FASTGRAD_BACKEND sets the backend the process starts with.

    Args:
        name: one of `fastgrad.backends()`.

    Raises:
        ValueError: this build or this machine has no such backend.
    """

    def __init__(self, name: str) -> None:
        self._previous = _C.active_backend()
        _C.force_backend(name)

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _C.force_backend(self._previous)
