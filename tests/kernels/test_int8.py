"""Products with int8 weights against float64: on a GPU where there is one, else under Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import int8  # noqa: E402  # Triton may not be there

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# Of the norm: what rounding the result takes. Triton's interpreter cuts bits off instead.
TOLERANCES = {torch.bfloat16: 4e-3 if CUDA else 8e-3, torch.float16: 5e-4 if CUDA else 1e-3}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written is not a number."""
    new_empty = torch.Tensor.new_empty

    def poison(x: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        memory = new_empty(x, *shape, **options)
        return memory.fill_(torch.nan) if memory.is_floating_point() else memory

    monkeypatch.setattr(torch.Tensor, "new_empty", poison)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("rows", "outputs", "size"), [(1, 40, 576), (3, 16, 64), (16, 17, 192), (33, 70, 256), (130, 64, 64)]
)
def test_any_number_of_rows(rows: int, outputs: int, size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    weights = torch.randint(-127, 128, (outputs, size), dtype=torch.int8)
    scales = torch.rand(outputs)
    bias = torch.randn(outputs).to(dtype) if rows % 2 else None
    x = torch.randn(rows, size).to(dtype)
    expected = x.double() @ (weights.double() * scales.double()[:, None] / 127).T
    if bias is not None:
        expected += bias.double()
    bias_there = None if bias is None else bias.to(DEVICE)
    y = int8.multiply(x.to(DEVICE), weights.to(DEVICE), scales.to(DEVICE), bias_there)
    assert y.dtype == dtype
    assert (y.cpu().double() - expected).norm() <= TOLERANCES[dtype] * expected.norm()
