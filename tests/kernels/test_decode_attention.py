"""The attention kernel against float64: on a GPU where there is one, else under Triton's interpreter."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.kernels.triton_here import interpreted_or_on_a_gpu, slow_when_interpreted

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import decode_attention  # noqa: E402  # Triton may not be there

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-3}
if CUDA:
    TOLERANCES[torch.bfloat16] = 1e-2  # Triton's interpreter multiplies its bits


# heads, key and value heads, size, size of values
SHAPES: list[tuple[int, int, int, int]] = [(6, 2, 24, 40), (7, 1, 16, 16), (4, 4, 64, 64)]
# window, softcap, sunk
WAYS: list[tuple[int | None, float | None, bool]] = [
    (None, None, False),
    (1, None, True),
    (50, None, False),
    (None, 2.0, False),
    (65, 30.0, True),
    (None, None, True),
]


def has_its_pair(
    shape: tuple[int, int, int, int], way: tuple[int | None, float | None, bool], dtype: torch.dtype
) -> bool:
    """Whether it is one of as few as have each pair of a small shape, a way and a type."""
    places = [SHAPES.index(shape), WAYS.index(way), [*TOLERANCES].index(dtype)]
    return shape != SHAPES[-1] and sum(places) % 2 == 0


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "value_size", "window", "softcap", "sunk", "dtype"),
    [
        pytest.param(*case[0], *case[1], case[2], marks=() if has_its_pair(*case) else slow_when_interpreted)
        for case in product(SHAPES, WAYS, TOLERANCES)
    ],
)
def test_each_row_sees_its_own_keys(
    heads: int,
    kv_heads: int,
    size: int,
    value_size: int,
    window: int | None,
    softcap: float | None,
    sunk: bool,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(heads)
    slots = 700
    lengths = torch.tensor([1, 300, 65, 64, 130])
    lanes = torch.tensor([3, 1, 6, 0, 1])
    # The heads' dimension is not where the memory is laid out by: a model gives a transposed view.
    query = torch.randn(heads, len(lanes), size).to(DEVICE, dtype).transpose(0, 1)
    keys = torch.randn(kv_heads, slots, size).to(DEVICE, dtype)
    values = torch.randn(kv_heads, slots, value_size).to(DEVICE, dtype)
    table = torch.stack([torch.randperm(slots)[:300] for _ in range(7)]).int()
    sinks = torch.linspace(-2, 9, heads).to(DEVICE, dtype) if sunk else None
    places = table.to(DEVICE), lanes.to(DEVICE), lengths.to(DEVICE)
    output = decode_attention.attend(query, keys, values, *places, 0.3, window, softcap, sinks)
    expected = torch.empty(output.shape, dtype=torch.float64, device=DEVICE)
    for row, (lane, length) in enumerate(zip(lanes, lengths, strict=True)):
        seen = table[lane, :length].long().to(DEVICE)[-(window or slots) :]
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            scores = 0.3 * keys[kv_head, seen].double() @ query[row, head].double()
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if sinks is not None:
                scores = torch.cat([scores, sinks[head : head + 1].double()])
            expected[row, head] = scores.softmax(0)[: len(seen)] @ values[kv_head, seen].double()
    assert (output.double() - expected).norm() <= TOLERANCES[dtype] * expected.norm()
