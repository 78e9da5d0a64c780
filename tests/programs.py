"""C++ test programs. A source is compiled once for all of pytest's processes, however many programs it is part of."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock


class Programs:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def _once(self, name: str, *command: str) -> Path:
        target = self.folder / f"{hashlib.sha1(' '.join(command).encode()).hexdigest()[:12]}-{name}"
        with FileLock(f"{target}.lock"):
            if not target.exists():
                subprocess.run([*command, "-o", f"{target}.new"], check=True)
                os.rename(f"{target}.new", target)
        return target

    def compile(self, source: Path, flags: Iterable[str]) -> Path:
        return self._once(f"{source.stem}.o", "g++", *flags, "-c", "-x", "c++", str(source))

    def build(self, sources: Iterable[Path], flags: Iterable[str]) -> Path:
        """The program that is linked of these sources, which may be CUDA's."""
        objects = [str(self.compile(source, flags)) for source in sources]
        return self._once("program", "g++", *flags, *objects)


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=900)
