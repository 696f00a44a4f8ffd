"""How products of few rows are cut."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import int8, nf4  # noqa: E402  # Triton may not be there
from adapthub.adapters.kernels.few_rows import Cut, Plan, plan_for  # noqa: E402

each = pytest.mark.parametrize("kernel", [nf4, int8])
SIZES = (64, 128, 576, 896, 1536, 4096, 4864, 14336)


@each
@pytest.mark.parametrize("size", SIZES)
def test_steps_and_parts_divide_k(kernel: Any, size: int) -> None:
    for outputs in (16, 1024, 4096, 28672):
        for rows in (1, 8, 16, 17, 64, 128, 300):
            plan = plan_for(kernel.CUTS, rows, outputs, size)
            assert size // 64 % (plan.parts * max(plan.slices, 1)) == 0
            assert not plan.slices or plan.slices % plan.warps == 0
            assert rows <= plan.rows or plan.rows == 128


@each
@pytest.mark.parametrize("size", SIZES)
def test_k_is_cut_alike_up_to_16_rows(kernel: Any, size: int) -> None:
    for outputs in (16, 1024, 4096, 28672):
        plans = [plan_for(kernel.CUTS, rows, outputs, size) for rows in range(1, 17)]
        assert len({(plan.slices, plan.warps, plan.parts) for plan in plans}) == 1


def test_parts_are_cut_until_there_are_programs_enough() -> None:
    cuts = (Cut(rows=8, least=0, outputs=32, slices=4, warps=4, stages=2, spread=4096, blocks=112),)
    assert plan_for(cuts, 3, 4096, 4096) == Plan(8, 32, 4, 4, 1, 2)
    assert plan_for(cuts, 3, 1024, 4096) == Plan(8, 32, 4, 4, 4, 2)  # too few outputs
    assert plan_for(cuts, 3, 4096, 14336) == Plan(8, 32, 4, 4, 2, 2)  # too long a K
