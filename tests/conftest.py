"""Fresh, reproducible random numbers for every test, and the device that the suite's tensors are on."""

from __future__ import annotations

import os
import random
import sys

import pytest
import torch
from programs import Programs


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of the random inputs; default: a new one each run")
    parser.addoption(
        "--device",
        default="cpu",
        help="where the tests make their tensors: cpu, cuda, or pretended, CUDA tensors where there is no GPU, on the "
        "emulator (pretended_gpu.py). Tests marked cpu are then left out.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu: about the CPU, or makes its own tensors; left out with --device cuda")
    if config.getoption("--seed") is None:
        # Workers of pytest-xdist inherit the controller's seed.
        inherited = getattr(config, "workerinput", {}).get("seed")
        config.option.seed = random.randrange(2**31) if inherited is None else inherited
    set_device(config.getoption("--device"))


def set_device(name: str) -> None:
    """Before any test is imported: checks.py asks where tensors are made. Workers of pytest-xdist come here too."""
    if name == "pretended":
        import pretended_gpu

        pretended_gpu.install()
        name = "cuda"
    elif name.startswith("cuda") and not torch.cuda.is_available():
        raise pytest.UsageError(
            f"--device {name}: torch {torch.__version__} finds no GPU here; --device pretended needs none"
        )
    if name != "cpu":
        try:
            torch.set_default_device(name)
            torch.empty(1)
        except RuntimeError as error:
            raise pytest.UsageError(f"--device {name}: {error}") from error


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:  # pytest-xdist
    node.workerinput["seed"] = node.config.option.seed  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Programs that are compiled and run take minutes: first, so that the other workers share the rest meanwhile.
    items.sort(key=lambda item: not item.path.name.endswith("_kernels.py"))
    if config.getoption("--device") == "cpu":
        return
    left_out = [item for item in items if item.get_closest_marker("cpu")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("cpu")]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """After a kernel that faulted every call of CUDA fails in this process: no further test is run in it."""
    if not torch.cuda.is_initialized() or "pretended_gpu" in sys.modules:
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)  # pytest-xdist starts another worker
        pytest.exit(f"the CUDA context is lost: {error}", returncode=1)


def pytest_report_header(config: pytest.Config) -> str:
    import fastgrad

    return (
        f"fastgrad: --device {config.getoption('--device')}, CPU backend {fastgrad.active_backend()}, "
        f"--seed {config.getoption('--seed')}"
    )


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(request.config.getoption("--seed"))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Compiled ones, in a folder that pytest's processes share."""
    root = tmp_path_factory.getbasetemp()
    return Programs((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "programs")
