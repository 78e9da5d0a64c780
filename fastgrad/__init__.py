"""Hand-written CPU and CUDA kernels for the layers, losses and tensor ops of PyTorch."""

from fastgrad import _loader

_C = _loader.load()

from fastgrad import _fake, functional, nn  # noqa: E402  the ops exist once _C is loaded
from fastgrad._backends import active_backend, backend, backends  # noqa: E402
from fastgrad._build_info import VERSION as __version__  # noqa: E402
from fastgrad._memory import cached_memory, empty_cache  # noqa: E402
from fastgrad.swap import SwapReport, restore, swap  # noqa: E402

del _fake, _loader

__all__ = [
    "SwapReport",
    "__version__",
    "active_backend",
    "backend",
    "backends",
    "cached_memory",
    "empty_cache",
    "functional",
    "nn",
    "restore",
    "swap",
]
