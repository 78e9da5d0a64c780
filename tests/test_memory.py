"""The memory of large CPU results: kept when they are gone, never shared, never lost."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from checks import once

import fastgrad
import fastgrad.functional as F

pytestmark = [pytest.mark.cpu, once]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    """Nothing is kept. What serves CPU tensors plays no part, but emulated kernels would take minutes."""
    gc.collect()
    fastgrad.empty_cache()
    with fastgrad.backend("default"):
        yield


def result(mib: int) -> torch.Tensor:
    return F.relu(torch.ones(mib * MIB // 4))


def test_memory_is_used_again() -> None:
    x = torch.ones(2 * MIB)
    address = F.relu(x).data_ptr()
    assert fastgrad.cached_memory() == 8 * MIB
    y = F.relu(x)
    assert y.data_ptr() == address and fastgrad.cached_memory() == 0
    assert y.data_ptr() % (2 * MIB) == 0
    z = F.neg(y)
    assert z.data_ptr() != address and torch.equal(y, x) and torch.equal(z, -x)


def test_views_keep_their_memory() -> None:
    view = result(8)[5:9]
    assert fastgrad.cached_memory() == 0
    other = F.neg(torch.ones(2 * MIB))
    assert view.tolist() == [1.0] * 4 and other.data_ptr() != view.data_ptr()
    del view
    assert fastgrad.cached_memory() == 8 * MIB


def test_small_results_are_malloced() -> None:
    F.relu(torch.ones(1000))
    assert fastgrad.cached_memory() == 0


def test_what_does_not_fill_its_pages() -> None:
    """Takes no more memory than it needs, to 64 KiB."""
    for kib in (1024, 1025, 2560, 4095):
        fastgrad.empty_cache()
        y = F.relu(torch.ones(kib * 256))
        address = y.data_ptr()
        assert y.eq(1).all() and address % (2 * MIB) == 0
        del y
        assert kib <= fastgrad.cached_memory() // 1024 < kib + 64
        assert F.neg(torch.ones(kib * 256)).data_ptr() == address


def test_much_larger_blocks_are_not_taken() -> None:
    result(64)
    assert fastgrad.cached_memory() == 64 * MIB
    small = result(8)
    assert fastgrad.cached_memory() == 64 * MIB and small.untyped_storage().nbytes() == 8 * MIB


def test_empty_cache_returns_it() -> None:
    result(8)
    fastgrad.empty_cache()
    assert fastgrad.cached_memory() == 0


def test_resizing() -> None:
    y = result(8)
    y.resize_(4 * MIB)
    assert y[: 2 * MIB].eq(1).all() and fastgrad.cached_memory() == 8 * MIB


def test_numpy_keeps_it() -> None:
    array = result(8).numpy()
    assert fastgrad.cached_memory() == 0
    other = F.neg(torch.ones(2 * MIB))
    assert (array == 1).all() and other.eq(-1).all()


def run(code: str, limit: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FASTGRAD_CACHE_MIB": limit},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LIMITED = """
import torch, fastgrad, fastgrad.functional as F
x = torch.ones(8 << 18)
a, b, c = F.relu(x), F.relu(x), F.relu(x)
del a, b, c
print(fastgrad.cached_memory() >> 20)
"""


@pytest.mark.parametrize(("limit", "kept"), [("0", "0"), ("16", "16"), ("20", "16"), ("100", "24")])
def test_limit(limit: str, kept: str) -> None:
    outcome = run(LIMITED, limit)
    assert outcome.stdout.strip() == kept, outcome.stderr


def test_bad_limit() -> None:
    outcome = run(LIMITED, "lots")
    assert "ValueError" in outcome.stderr and '"lots"' in outcome.stderr


FORKED = """
import os, torch, fastgrad, fastgrad.functional as F
torch.set_num_threads(1)
x = torch.ones(8 << 18)
y = F.relu(x)
child = os.fork()
z = F.neg(x)
del y
w = F.relu(x)
assert w.eq(1).all() and z.eq(-1).all()
if not child:
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_fork() -> None:
    outcome = run(FORKED, "100")
    assert outcome.stdout.strip() == "0", outcome.stderr
