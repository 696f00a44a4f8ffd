"""The fast path against the naive loop, over every kind of update and any segments."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.delta import (
    Dora,
    EmbeddingLowRank,
    LowRank,
    Replacement,
    Scaled,
    ScaledInput,
    Segment,
    Shift,
    Update,
    apply_,
    reference,
)

IN, OUT, VOCABULARY = 12, 10, 20


def updates(generator: torch.Generator, *, embedding: bool) -> dict[str, tuple[Update, ...]]:
    """A digest for each kind of update, and one that has several."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if embedding:
        return {
            "a": (EmbeddingLowRank(normal(VOCABULARY, 3), normal(OUT, 3), 0.7),),
            "b": (Shift(normal(OUT)),),
        }
    linear = torch.nn.Linear(IN, OUT).requires_grad_(False)
    low_rank = {rank: LowRank(normal(rank, IN), normal(OUT, rank), 0.5) for rank in (1, 4, 8)}
    return {
        "a": (low_rank[1],),
        "b": (low_rank[8],),
        "c": (LowRank(normal(2, IN), normal(OUT, 2), 2.0, normal(OUT)),),
        "d": (Dora(low_rank[4], 1 + normal(OUT), normal(OUT)),),
        "e": (Dora(low_rank[4], 1 + normal(OUT), None), Shift(normal(OUT))),
        "f": (Replacement(linear),),
        "g": (Scaled(normal(OUT)), ScaledInput(normal(IN), linear)),
    }


terms = st.lists(
    st.tuples(st.floats(-2, 2), st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "elsewhere"])), max_size=3
)
segment_lists = st.lists(st.tuples(st.integers(1, 5), terms), min_size=1, max_size=6)


@given(segment_lists, st.booleans(), st.integers(0, 1000))
def test_fast_path_equals_the_naive_loop(
    parts: list[tuple[int, list[tuple[float, str]]]], embedding: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    segments, at = [], 0
    for length, chosen in parts:
        segments.append(Segment(at, at + length, tuple(chosen)))
        at += length
    x = (
        torch.randint(VOCABULARY, (at,), generator=generator)
        if embedding
        else torch.randn(at, IN, generator=generator)
    )
    y = torch.randn(at, OUT, generator=generator)
    known = updates(generator, embedding=embedding)
    expected = reference(segments, known, x, y)
    apply_(segments, known, x, y)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_rows_without_an_update_are_not_touched() -> None:
    y = torch.full((3, OUT), float("nan"))
    apply_(
        [Segment(0, 3, ((1.0, "elsewhere"),))],
        updates(torch.Generator(), embedding=False),
        torch.empty(3, IN),
        y,
    )
    assert y.isnan().all()
