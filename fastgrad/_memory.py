"""The memory of large results on the CPU."""

from __future__ import annotations

from fastgrad import _C


def empty_cache() -> None:
    """Return to the system the unused memory that fastgrad keeps for the next large results.

    A result of 1 MiB or more on the CPU lies on pages of its own. When the last tensor on them is gone they are
    kept, since new pages cost the system more than most kernels do: at most a sixteenth of the machine's memory and
    1 GiB, or what the environment variable FASTGRAD_CACHE_MIB says (0 keeps nothing). Memory of tensors in use is
    never touched. CUDA results come from torch's own allocator: see `torch.cuda.empty_cache`.
    """
    _C.empty_cache()


def cached_memory() -> int:
    """Return how many bytes `empty_cache` would return to the system."""
    return _C.cached_bytes()
