"""The adapters' kernel against float64: on a GPU where there is one, else under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import low_rank  # noqa: E402  # Triton may not be there

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def made(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("size", "out", "terms"), [(96, 80, 1), (33, 257, 2), (600, 64, 4)])
def test_tokens_get_what_their_rows_adapters_add(dtype: torch.dtype, size: int, out: int, terms: int) -> None:
    generator = torch.Generator().manual_seed(size)
    row_of = torch.tensor([0, 0, 3, 1, 4, 2, 4], device=DEVICE)
    rows = 5
    x = made(len(row_of), size, dtype=dtype, generator=generator)
    y = made(len(row_of), out, dtype=dtype, generator=generator)
    # Of two modules side by side, as they are told; this is the second.
    entries = torch.zeros(rows, terms, 2, 6, dtype=torch.int64)
    factors = torch.zeros(rows, terms, 2, 2)
    expected = y.double()
    alive = []  # the entries hold addresses alone
    for row in range(rows):
        for term in range(terms):
            rank = [0, 3, 16, 5, 33][(row + term) % 5]
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
            entries[row, term, 1] = torch.tensor([*starts, rank])
            factors[row, term, 1] = torch.tensor([weight * scale, weight])
            for token in (row_of == row).nonzero()[:, 0]:
                added = scale * (x[token].double() @ a.double().T) @ b.double().T
                if with_bias:
                    added = added + bias.double()
                if with_gain:
                    weighted = y[token].double() - (base_bias.double() if with_base_bias else 0)
                    added = (gain.double() - 1) * weighted + gain.double() * added
                expected[token] += weight * added
    told = entries.to(DEVICE)[row_of][:, :, 1], factors.to(DEVICE)[row_of][:, :, 1]
    low_rank.expand_(y, low_rank.shrink(x, *told, 64), *told)
    assert (y.double() - expected).norm() <= TOLERANCES[dtype] * expected.norm()


def test_rows_without_an_adapter_keep_their_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (made(3, 16, dtype=torch.float32, generator=generator) for _ in range(2))
    before = y.clone()
    told = torch.zeros(3, 1, 6, dtype=torch.int64, device=DEVICE), torch.zeros(3, 1, 2, device=DEVICE)
    low_rank.expand_(y, low_rank.shrink(x, *told, 16), *told)
    assert torch.equal(y, before)
