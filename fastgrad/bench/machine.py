"""What figures depend on: machine, versions, settings, date and command."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch

import fastgrad
from fastgrad.__main__ import _cpu

__all__ = ["describe"]


def describe(backend: str, command: list[str]) -> dict[str, Any]:
    """The description that goes with every record."""
    build = fastgrad._build_info
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory, GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "transparent huge pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastgrad": fastgrad.__version__,
        "build": f"{build.BUILD_TYPE}, {build.COMPILER}",
        "backend": backend,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["fastgrad bench", *command]),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _caches() -> dict[str, str]:
    """Sizes of the first core's data caches."""
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _read(f"{index}/type") != "Instruction":
            caches[f"L{_read(f'{index}/level')}"] = _read(f"{index}/size")
    return caches
