"""Imports the compiled module, or says in one sentence why it cannot be."""

import importlib.util
import pkgutil
import sys
from importlib import import_module
from types import ModuleType

import torch


def load() -> ModuleType:
    """Returns fastgrad._C, after a check that it was built for the torch that is running.

    Raises ImportError where fastgrad is not built, or was built for another minor version of torch.
    """
    package = sys.modules["fastgrad"]
    if importlib.util.find_spec("fastgrad._C") is None:
        # Python started in a source checkout finds the sources first; the compiled module is where pip put it.
        package.__path__ = pkgutil.extend_path(package.__path__, "fastgrad")  # type: ignore[assignment]
    if importlib.util.find_spec("fastgrad._C") is None:
        raise ImportError(
            f"fastgrad in {package.__path__[0]} is not built for this Python: run  pip install .  in its source folder."
        )
    build = import_module("fastgrad._build_info")
    if torch.__version__.split(".")[:2] != build.TORCH_VERSION.split(".")[:2]:
        raise ImportError(_rebuild(build.TORCH_VERSION))
    try:
        return import_module("fastgrad._C")
    except ImportError as error:  # the same minor version of torch, but another ABI
        raise ImportError(f"{_rebuild(build.TORCH_VERSION)} ({error})") from error


def _rebuild(built_for: str) -> str:
    return (
        f"fastgrad was built for torch {built_for}, but this is torch {torch.__version__}: reinstall it, "
        "pip install --force-reinstall --no-deps --no-cache-dir  with the fastgrad source folder."
    )
