"""Every test starts from fresh, reproducible random numbers: --seed N repeats a run."""

from __future__ import annotations

import random

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of the random inputs; default: a new one each run")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--seed") is None:
        # Workers of pytest-xdist inherit the controller's seed.
        inherited = getattr(config, "workerinput", {}).get("seed")
        config.option.seed = random.randrange(2**31) if inherited is None else inherited


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:  # pytest-xdist
    node.workerinput["seed"] = node.config.option.seed  # type: ignore[attr-defined]


def pytest_report_header(config: pytest.Config) -> str:
    import fastgrad

    return f"fastgrad: backend {fastgrad.active_backend()}, --seed {config.getoption('--seed')}"


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(request.config.getoption("--seed"))
