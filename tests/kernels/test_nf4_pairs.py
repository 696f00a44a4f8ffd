"""Products with several nf4 matrices a launch against float64: on a GPU, else under Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernels.ptx_reader import TABLE, run_ptx
from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import nf4_lookup, nf4_pairs  # noqa: E402  # Triton may not be there
from adapthub.adapters.kernels.nf4_pairs import Matrix, PairsPlan  # noqa: E402
from tests.kernels.stored import Stored  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TOLERANCES = {torch.bfloat16: 4e-3 if CUDA else 8e-3, torch.float16: 5e-4 if CUDA else 1e-3}
both = pytest.mark.parametrize("dtype", TOLERANCES)
PLAN = PairsPlan(8, 16, 4, 4, 2, 128)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written is not a number."""
    new_empty = torch.Tensor.new_empty

    def poison(x: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        memory = new_empty(x, *shape, **options)
        return memory.fill_(torch.nan) if memory.is_floating_point() else memory

    monkeypatch.setattr(torch.Tensor, "new_empty", poison)


def matrices(counts: tuple[int, ...], size: int, nested: bool) -> list[Stored]:
    return [Stored(count, size, nested) for count in counts]


def agree(x: torch.Tensor, stored: list[Stored], biases: list[torch.Tensor | None], plan: PairsPlan) -> None:
    told = [
        Matrix(of.packed, of.scales, len(of.weights), bias) for of, bias in zip(stored, biases, strict=True)
    ]
    products = nf4_pairs.multiply(x, told, plan)
    assert len(products) == len(stored)
    for y, of, bias in zip(products, stored, biases, strict=True):
        expected = x.cpu().double() @ of.weights.T
        if bias is not None:
            expected += bias.cpu().double()
        assert y.shape == expected.shape
        assert y.is_contiguous()
        assert y.dtype == x.dtype
        assert (y.cpu().double() - expected).norm() <= TOLERANCES[x.dtype] * expected.norm()


@both
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("counts", "size", "rows"),
    [
        ((72,), 256, 1),
        ((40, 24), 192, 3),  # steps that K does not fill
        ((33, 17, 17), 320, 8),
        ((48, 16, 16), 64, 9),  # fewer blocks than a step has
        ((20,), 512, 17),
    ],
)
def test_each_matrix_gets_its_own_product(
    counts: tuple[int, ...], size: int, rows: int, nested: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows)
    stored = matrices(counts, size, nested)
    biases = [torch.randn(count).to(DEVICE, dtype) if i != 1 else None for i, count in enumerate(counts)]
    agree(torch.randn(rows, size).to(DEVICE, dtype), stored, biases, PLAN)


@both
@pytest.mark.parametrize("plan", [PairsPlan(16, 32, 2, 2, 2, 0), PairsPlan(8, 16, 8, 4, 3, 4096)])
def test_any_plan(plan: PairsPlan, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    agree(torch.randn(5, 576).to(DEVICE, dtype), matrices((40, 8), 576, True), [None, None], plan)


@both
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    stored = Stored(24, 512, True)
    told = [Matrix(stored.packed, stored.scales, 24)]
    x = torch.randn(8, 512).to(DEVICE, dtype)
    (whole,) = nf4_pairs.multiply(x, told, PLAN)
    for rows in (1, 5):
        crowd = torch.cat([x[:rows], 1000 * torch.randn_like(x[rows:])])
        for some in (crowd[:rows], crowd):
            assert torch.equal(nf4_pairs.multiply(some, told, PLAN)[0][:rows], whole[:rows])


@both
def test_the_assembly_finds_the_word_of_every_byte(dtype: torch.dtype) -> None:
    """Run by a reader of its PTX, over shared memory as a program writes it."""
    table = nf4_pairs.words(dtype).tolist()
    shared = {
        TABLE + 128 * byte + 4 * lane: table[byte] & 0xFFFFFFFF for byte in range(256) for lane in range(32)
    }
    given = torch.randint(1 << 32, (32,), generator=torch.Generator().manual_seed(3)).tolist()
    results = run_ptx(nf4_pairs.ASSEMBLY.value, {"$4": given}, 4, shared)
    for lane, word in enumerate(given):
        for place in range(4):
            for second in (0, 1):
                code = word >> 8 * place + 4 * (1 - second) & 15
                bits = results[place][lane] >> 16 * second & 0xFFFF
                found = torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(dtype)
                assert found.item() == nf4_lookup.values(dtype)[code].item()
