"""The adapters' kernels, by token and by runs of tokens, against float64: on a GPU, else under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.triton_here import interpreted_or_on_a_gpu, slow_when_interpreted

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import low_rank, low_rank_runs  # noqa: E402  # Triton may not be there

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


TILE = 16


def runs_of(row_of: torch.Tensor, spare: int = 2) -> torch.Tensor:
    """Runs of up to `TILE` tokens of one row, and some without a token."""
    rows, counts = (told.tolist() for told in torch.unique_consecutive(row_of, return_counts=True))
    found, first = [], 0
    for row, count in zip(rows, counts, strict=True):
        for start in range(0, count, TILE):
            found.append((row, first + start, min(TILE, count - start)))
        first += count
    return torch.tensor([*found, *[(0, 0, 0)] * spare], device=DEVICE).T.contiguous()


def made(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


@pytest.mark.parametrize("by_runs", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("size", "outs", "terms"),
    [
        (96, (80,), 1),
        (33, (257, 40), 2),
        pytest.param(600, (64, 16, 130), 4, marks=slow_when_interpreted),
    ],
)
def test_tokens_get_what_their_rows_adapters_add(
    dtype: torch.dtype, size: int, outs: tuple[int, ...], terms: int, by_runs: bool
) -> None:
    generator = torch.Generator().manual_seed(size)
    row_of = torch.tensor([0] * (19 if by_runs else 2) + [3, 1, 4, 2, 4], device=DEVICE)
    rows, places = 5, [3, 0, 2][: len(outs)]  # of four modules that are told of
    x = made(len(row_of), size, dtype=dtype, generator=generator)
    ys = [made(len(row_of), 2 * out, dtype=dtype, generator=generator)[:, :out] for out in outs]
    table, factors = torch.zeros(rows, terms, 4, 6, dtype=torch.int64), torch.zeros(rows, terms, 4, 2)
    expected = [y.double() for y in ys]
    alive = []  # the entries hold addresses alone
    for slice_, (place, out) in enumerate(zip(places, outs, strict=True)):
        y = ys[slice_].clone()
        for row in range(rows):
            for term in range(terms):
                rank = [0, 3, 16, 5, 33][(row + term + slice_) % 5]
                if not rank:
                    continue
                a = made(rank, size, dtype=dtype, generator=generator)
                b = made(out, rank, dtype=dtype, generator=generator)
                bias, gain, base_bias = made(3, out, dtype=dtype, generator=generator)
                with_bias, with_gain, with_base_bias = row % 2 == 0, row % 3 == 1, row == 4
                alive += [a, b, bias, gain, base_bias]
                scale, weight = 1.5, 0.75
                starts = [
                    tensor.data_ptr() if there else 0
                    for tensor, there in (
                        (a, True),
                        (b, True),
                        (bias, with_bias),
                        (gain, with_gain),
                        (base_bias, with_gain and with_base_bias),
                    )
                ]
                table[row, term, place] = torch.tensor([*starts, rank])
                factors[row, term, place] = torch.tensor([weight * scale, weight])
                for token in (row_of == row).nonzero()[:, 0]:
                    added = scale * (x[token].double() @ a.double().T) @ b.double().T
                    if with_bias:
                        added = added + bias.double()
                    if with_gain:
                        weighted = y[token].double() - (base_bias.double() if with_base_bias else 0)
                        added = (gain.double() - 1) * weighted + gain.double() * added
                    expected[slice_][token] += weight * added
    if by_runs:
        told = table.to(DEVICE), factors.to(DEVICE), runs_of(row_of)
        low = low_rank_runs.shrink(x, *told, places, 64, TILE)
        low_rank_runs.expand_(ys, low, *told, places, TILE)
    else:
        of_tokens = table.to(DEVICE)[row_of], factors.to(DEVICE)[row_of]
        low = low_rank.shrink(x, *of_tokens, places, 64)
        low_rank.expand_(ys, low, *of_tokens, places)
    for y, wanted in zip(ys, expected, strict=True):
        assert (y.double() - wanted).norm() <= TOLERANCES[dtype] * wanted.norm()


def test_rows_without_an_adapter_keep_their_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (made(3, 16, dtype=torch.float32, generator=generator) for _ in range(2))
    before = y.clone()
    told = (
        torch.zeros(3, 1, 1, 6, dtype=torch.int64, device=DEVICE),
        torch.zeros(3, 1, 1, 2, device=DEVICE),
    )
    low_rank.expand_([y], low_rank.shrink(x, *told, [0], 16), *told, [0])
    assert torch.equal(y, before)
    runs = runs_of(torch.tensor([1, 1]))  # the third token is in none
    low_rank_runs.expand_([y], low_rank_runs.shrink(x, *told, runs, [0], 16, TILE), *told, runs, [0], TILE)
    assert torch.equal(y, before)
