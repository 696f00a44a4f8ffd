"""Stacks, over steps of a decoding batch, against the naive loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.delta import LowRank, Segment, Update, apply_, reference
from adapthub.adapters.stacks import StackBudget, Stacks, _grouped
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


def loras(ranks: Mapping[str, int], seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A random plain LoRA of each rank; `seed` is the module under which they lie."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, rank in ranks.items():
        a, b = (torch.randn(size, generator=generator, dtype=dtype) for size in ((rank, IN), (OUT, rank)))
        result[name] = (LowRank(a, b, 0.5 + 0.25 * rank + seed),)
    return result


def decoding(names: Sequence[str]) -> list[Segment]:
    return [Segment(row, row + 1, ((1.0, name),)) for row, name in enumerate(names)]


def check(stacks: Stacks, names: Sequence[str], updates: Mapping[str, Sequence[Update]]) -> None:
    """One step of a row under each of `names` adds what the naive loop adds."""
    generator = torch.Generator().manual_seed(len(names))
    x, y = (torch.randn(len(names), size, generator=generator) for size in (IN, OUT))
    expected = reference(decoding(names), updates, x, y)
    run(stacks, decoding(names), updates, x, y)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_modules_whose_ranks_differ_plan_once_a_kind_and_each_adds_its_own() -> None:
    """As under a rank_pattern, where one adapter has another rank in another module."""
    kinds, names = 20, [f"lora {index}" for index in range(12)]
    modules = []
    for module in range(2 * kinds):
        ranks = {name: 2 + (module % kinds >> index & 1) for index, name in enumerate(names)}
        # Of another scale too; what modules of one kind share must fit both.
        module_updates = loras(ranks, seed=module % kinds)
        modules.append((Stacks(StackBudget(1 << 20)), module_updates))
    _grouped.cache_clear()
    for step in range(3):
        rows_ = names[step:] + names[: step // 2]
        for stacks, updates_ in modules:
            check(stacks, rows_, updates_)
        assert _grouped.cache_info().misses == kinds * (step + 1)


RANK_2, RANK_3 = ([f"{rank}-{index}" for index in range(16)] for rank in (2, 3))
BOTH_RANKS = {name: rank for rank, names in ((2, RANK_2), (3, RANK_3)) for name in names}


@pytest.mark.parametrize("after", ["the same rows", "the rows before"])
@pytest.mark.parametrize(
    ("before", "then"),
    [
        pytest.param(RANK_2[:4] + RANK_3[:4], RANK_2[:9] + RANK_3[:9], id="grows"),
        pytest.param(RANK_2[:8] + RANK_3[:8], RANK_2[8:] + RANK_3[8:], id="evicts"),
    ],
)
def test_what_a_copy_that_failed_left_behind_serves_nobody(
    before: list[str], then: list[str], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, failures = loras(BOTH_RANKS), 0
    copy_ = torch.Tensor.copy_
    while True:  # at every copy in turn, until there is none left to fail
        budget = StackBudget(1 << 20)
        stacks, left = Stacks(budget), failures
        check(stacks, before, known)

        def failing(target: torch.Tensor, *args: Any) -> torch.Tensor:
            nonlocal left
            left -= 1
            if left == -1:
                raise torch.OutOfMemoryError("no room")
            return copy_(target, *args)

        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "copy_", failing)
            try:
                run(stacks, decoding(then), known, torch.ones(len(then), IN), torch.zeros(len(then), OUT))
            except torch.OutOfMemoryError:
                failures += 1
            else:
                break
        check(stacks, then if after == "the same rows" else before, known)
        stacks.drop()
        assert budget.left == 1 << 20
    assert failures >= 2 * len({*then} - {*before})


def test_a_growth_that_finds_no_memory_takes_nothing_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    known, budget = loras(BOTH_RANKS), StackBudget(1 << 20)
    stacks = Stacks(budget)
    check(stacks, RANK_2[:4], known)
    left, new_empty = budget.left, torch.Tensor.new_empty

    def failing(like: torch.Tensor, *size: int) -> torch.Tensor:
        if size[-1] == OUT:  # the second of the two
            raise torch.OutOfMemoryError("no room")
        return new_empty(like, *size)

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "new_empty", failing)
        for names in (RANK_2, RANK_3):
            with pytest.raises(torch.OutOfMemoryError):
                check(stacks, names, known)
    assert budget.left == left
    check(stacks, RANK_2, known)
    check(stacks, RANK_3, known)
    stacks.drop()
    assert budget.left == 1 << 20


def test_copies_made_together_are_read_where_they_are() -> None:
    """Those of a batch that grows, in its order; a product that takes a view saves copying every matrix at every step."""
    stacks, known = Stacks(StackBudget(1 << 20)), loras(BOTH_RANKS)
    for count in (5, 8, 13):
        check(stacks, RANK_2[:count], known)
        (stack,) = stacks._used
        assert stack.slots.of_stack(stack.a).data_ptr() == stack.a.data_ptr()


def test_stacks_in_bfloat16_are_the_naive_loop_but_for_its_rounding() -> None:
    """Products of another kind than in float32, over copies that lie side by side and over any others."""
    known = loras(dict.fromkeys(RANK_2, 4), dtype=torch.bfloat16)
    exact = {
        name: (replace(update, a=update.a.float(), b=update.b.float()),) for name, (update,) in known.items()
    }
    stacks = Stacks(StackBudget(1 << 20))
    generator = torch.Generator().manual_seed(1)
    for names in (RANK_2[:8], RANK_2[3:7], [*RANK_2[5:2:-1], RANK_2[9], RANK_2[0]], RANK_2):
        segments = decoding([*names, "elsewhere"])
        x, y = (
            torch.randn(len(segments), size, generator=generator, dtype=torch.bfloat16) for size in (IN, OUT)
        )
        expected = reference(segments, exact, x.float(), y.float())
        run(stacks, segments, known, x, y)
        # Numbers up to 64, summed and rounded to 8 bits twice.
        torch.testing.assert_close(y.float(), expected, rtol=0, atol=2 * 64 * 2**-8)
