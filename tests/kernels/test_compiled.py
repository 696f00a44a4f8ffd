"""What only a compiler can say of kernels whose assembly no interpreter runs: for a GPU that need not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

# What every kernel may have of shared memory, the table's static part among it.
_FREE, _TABLE = 48 << 10, 32 << 10
_MOST = 99 << 10  # that any kernel can get on capability 8.6 and 8.9


def compiled(what: str, capability: int) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.compiled", what, str(capability)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.slow
def test_every_plan_compiles_so_that_its_assembly_gets_four_bytes_in_a_row() -> None:
    found = compiled("pairs", 90)
    assert len(found) > 10
    for made in found:
        assert made["machine"] > 0
        # Bytes as a product's operand: four that follow each other in a register, which the look-up counts on.
        assert made["operands"]
        assert all(widths == ["4", "4", "4"] for widths in made["operands"]), made
        # Triton asks the driver for more than every kernel may have by what it knows of, without the table.
        assert made["shared"] <= _FREE - _TABLE or made["shared"] > _FREE, made


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_other_kernel_compiles_and_reads_its_long_rows_many_bytes_at_a_time(capability: int) -> None:
    found = compiled("others", capability)
    assert len(found) > 20
    for made in found:
        assert made["machine"] > 0
        assert made["shared"] <= _MOST, made
        if made["kernel"] in ("shrink", "shrink runs", "gradients of runs", "attention"):
            assert made["wide"], made
