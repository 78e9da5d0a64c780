"""What the tests of layers, swap and demo share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parent.parent


class Ops(TorchDispatchMode):
    """The names of the ops that run inside the block: `with Ops() as ops: ...; assert "fastgrad.relu" in ops`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func).rpartition(".")[0])
        return func(*args, **(kwargs or {}))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def of_fastgrad(self) -> set[str]:
        return {name.partition(".")[2] for name in self.names if name.startswith("fastgrad.")}


def example(name: str) -> ModuleType:
    """Import examples/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same_curve(ours: Iterable[float], theirs: Iterable[float], tolerance: float = 1e-5) -> None:
    """Two loss curves agree at every step, relative to the first loss."""
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert worst <= tolerance * max(1.0, abs(theirs[0])), f"curves differ by {worst}"
