"""How many kernels an elementwise op launches on a GPU whose operands are strided: one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checks import PRETENDED

import fastgrad.functional as F

# Ops with an operand that is a constant without memory, whose strides mean nothing: whatever lies there must not make
# the range look too large for 32-bit offsets, which cuts it in halves, a launch for each.
CASES: dict[str, Callable[[torch.Tensor], Any]] = {
    "number": lambda x: F.mul(x, 2.0),
    "number of another dtype": lambda x: F.add(x.bfloat16(), 1),
    "power": lambda x: F.pow(x, 2),
    "no weight": lambda x: F.binary_cross_entropy_with_logits(x, x, pos_weight=x, reduction="none"),
    "0-d on the CPU": lambda x: F.smooth_l1_loss(x, torch.tensor(0.5, dtype=torch.float64), reduction="none"),
}


@pytest.mark.skipif(not PRETENDED, reason="needs --device pretended")
@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", CASES)
def test_a_strided_operand_is_one_launch(name: str) -> None:
    gpu = sys.modules["pretended_gpu"].gpu
    x = torch.rand(64, 50).t().to("cuda")[:, ::2]
    assert not x.is_contiguous()
    before = sum(gpu.launches(0))
    CASES[name](x)
    assert sum(gpu.launches(0)) == before + 1
