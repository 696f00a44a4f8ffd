"""Stacks, over steps of a decoding batch, against the naive loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.delta import LowRank, Segment, Update, apply_, reference
from adapthub.adapters.stacks import StackBudget, Stacks
from tests.adapters.test_delta import IN, OUT, updates

RANKS = (2, 3)


def run(
    stacks: Stacks,
    segments: list[Segment],
    updates: Mapping[str, Sequence[Update]],
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    apply_(stacks.add_(tuple(segments), updates, x, y), updates, x, y)


@pytest.fixture(scope="module")
def many() -> dict[str, tuple[Update, ...]]:
    """Twelve plain LoRAs of two ranks, and one of each kind that no stack takes."""
    generator = torch.Generator().manual_seed(5)
    others = updates(generator, embedding=False)
    result: dict[str, tuple[Update, ...]] = {name: others[name] for name in ("c", "d", "e")}
    for index in range(12):
        rank = RANKS[index % 2]
        a, b = (torch.randn(size, generator=generator) for size in ((rank, IN), (OUT, rank)))
        result[f"lora {index}"] = (LowRank(a, b, 0.5),)
    return result


NAMES = [*(f"lora {index}" for index in range(12)), "c", "d", "e", "elsewhere"]
# Steps of a decoding batch: rows mostly of one token under one adapter; the next step is the last one with changes.
rows = st.tuples(
    st.sampled_from([1, 1, 1, 1, 2]),
    st.lists(st.tuples(st.sampled_from([1.0, -0.5]), st.sampled_from(NAMES)), min_size=0, max_size=2),
)
lora_rows = st.tuples(
    st.just(1), st.lists(st.tuples(st.just(1.0), st.sampled_from(NAMES[:12])), min_size=1, max_size=1)
)
steps = st.lists(st.lists(lora_rows | rows, min_size=1, max_size=16), min_size=1, max_size=5)


@given(steps, st.sampled_from([0, 2000, 1 << 20]))
def test_stacks_kept_over_steps_equal_the_naive_loop(
    many: dict[str, tuple[Update, ...]],
    taken: list[list[tuple[int, list[tuple[float, str]]]]],
    budget: int,
) -> None:
    shared = StackBudget(budget)
    stacks = Stacks(shared)
    generator = torch.Generator().manual_seed(1)
    for step in [each for part in taken for each in (part, part)]:
        segments, at = [], 0
        for length, chosen in step:
            segments.append(Segment(at, at + length, tuple(chosen)))
            at += length
        x, y = torch.randn(at, IN, generator=generator), torch.randn(at, OUT, generator=generator)
        expected = reference(segments, many, x, y)
        run(stacks, segments, many, x, y)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        assert 0 <= shared.left <= budget
    stacks.drop()
    assert shared.left == budget


def test_a_step_like_the_last_copies_nothing(many: dict[str, tuple[Update, ...]]) -> None:
    """What makes stacks worth it: only what is new is copied, and rows may move."""
    stacks = Stacks(StackBudget(1 << 20))
    x = torch.randn(6, IN, generator=torch.Generator().manual_seed(1))
    first = [Segment(row, row + 1, ((1.0, f"lora {2 * row}"),)) for row in range(5)]
    run(stacks, first, many, x[:5], torch.zeros(5, OUT))
    own = many["lora 4"][0]
    assert isinstance(own, LowRank)
    changed = {**many, "lora 4": (LowRank(torch.zeros_like(own.a), own.b, own.scale),)}
    names = ["elsewhere", "lora 8", "lora 4", "lora 2", "lora 6", "lora 10"]
    moved = [Segment(row, row + 1, ((2.0, name),)) for row, name in enumerate(names)]
    y = torch.zeros(6, OUT)
    run(stacks, moved, changed, x, y)
    # The copy of the first step served: the tensors that now stand under its digest were not read.
    torch.testing.assert_close(y, reference(moved, many, x, torch.zeros(6, OUT)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(y, reference(moved, changed, x, torch.zeros(6, OUT)))


def test_stacks_serve_passes_in_and_out_of_inference_mode(many: dict[str, tuple[Update, ...]]) -> None:
    stacks = Stacks(StackBudget(1 << 20))
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            for names in (range(0, 8, 2), range(2, 12, 2)):
                segments = [Segment(i, i + 1, ((1.0, f"lora {n}"),)) for i, n in enumerate(names)]
                x, y = torch.ones(len(segments), IN), torch.zeros(len(segments), OUT)
                expected = reference(segments, many, x, y)
                run(stacks, segments, many, x, y)
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
