"""Pages against a naive set of holders; spans against the slots counted one by one; a prefix written as it is."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from adapthub.adapters.flat import Prefix
from adapthub.runtime.kv import KV, Held, LayerShape, OutOfPages, Pages

COUNT = 24


class PagesAgainstCounts(RuleBasedStateMachine):
    """Any order of take, share and give_back: the same holders as a Counter's."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pages = Pages(COUNT)
        self.holders: Counter[int] = Counter()

    @rule(target=held, count=st.integers(0, 9), after=st.none() | st.integers(0, COUNT - 1))
    def take(self, count: int, after: int | None) -> list[int]:
        free = COUNT - len(self.holders)
        if count > free:
            with pytest.raises(OutOfPages):
                self.pages.take(count, after)
            return []
        taken = self.pages.take(count, after)
        assert len(set(taken)) == count
        assert not set(taken) & set(self.holders)
        if (
            count
            and after in self.holders
            and (behind := (after or 0) + 1) < COUNT
            and behind not in self.holders
        ):
            assert taken[0] == behind
        self.holders.update(taken)
        return taken

    @rule(target=held, pages=held)
    def share(self, pages: list[int]) -> list[int]:
        self.pages.share(pages)
        self.holders.update(pages)
        return pages

    @rule(target=held, pages=consumes(held), kept=st.integers(0, 9))
    def give_back(self, pages: list[int], kept: int) -> object:
        self.pages.give_back(pages[kept:])
        self.holders -= Counter(pages[kept:])
        return pages[:kept] if pages[:kept] else multiple()

    @rule(page=st.integers(0, COUNT - 1))
    def free_pages_are_nobodys(self, page: int) -> None:
        if page not in self.holders:
            with pytest.raises(ValueError, match="given back"):
                self.pages.give_back([page])
            with pytest.raises(ValueError, match="shared"):
                self.pages.share([page])

    @invariant()
    def same_holders(self) -> None:
        assert self.pages.free == COUNT - len(self.holders)
        assert [self.pages.holders(page) for page in range(COUNT)] == [
            self.holders[page] for page in range(COUNT)
        ]


TestPages = PagesAgainstCounts.TestCase


def test_sequences_that_grow_together_stay_in_one_piece() -> None:
    pages = Pages(64)
    sequences = [pages.take(4) for _ in range(4)]
    for _ in range(8):
        for sequence in sequences:
            sequence.extend(pages.take(1, after=sequence[-1]))
    for sequence in sequences:
        assert sequence == list(range(sequence[0], sequence[0] + 12))


def test_everything_given_back_is_one_run_again() -> None:
    pages = Pages(40)
    taken = [pages.take(count) for count in (7, 3, 11, 1, 18)]
    assert pages.free == 0
    for part in (taken[1], taken[3], taken[0], taken[4], taken[2]):
        pages.give_back(part)
    assert pages.take(40) == list(range(40))


@given(
    prefix=st.lists(st.integers(0, 30), max_size=4, unique=True),
    own=st.lists(st.integers(31, 60), min_size=1, max_size=12, unique=True),
    size=st.integers(1, 5),
    data=st.data(),
)
def test_spans_are_the_slots_one_by_one(
    prefix: list[int], own: list[int], size: int, data: st.DataObject
) -> None:
    length = data.draw(st.integers(max(0, len(prefix) * size - size + 1), len(prefix) * size))
    slots = [page * size + i for page in prefix for i in range(size)][:length]
    slots += [page * size + i for page in own for i in range(size)]
    first = data.draw(st.integers(0, len(slots) - 1))
    last = data.draw(st.integers(max(first, length), len(slots)))
    held = Held(prefix_pages=prefix, prefix_length=length)
    for page in own:  # grown a page at a time, asked in between
        held.pages.append(page)
        held.spans(0, length + len(held.pages) * size, size)
    spans = held.spans(first, last, size)
    assert [slot for start, stop in spans for slot in range(start, stop)] == slots[first:last]
    first = data.draw(st.integers(0, last))  # where a prefix ends too, or before
    assert held.slots(first, last, size) == slots[first:last]
    assert held.slots(first, first, size) == []
    assert prefix or all(left[1] != right[0] for left, right in pairwise(spans))


@given(length=st.integers(0, 40), pages=st.integers(0, 9), new=st.integers(1, 30), size=st.integers(1, 8))
def test_missing_pages_are_just_enough(length: int, pages: int, new: int, size: int) -> None:
    held = Held(pages=list(range(pages)), length=length)
    missing = held.missing(new, size)
    assert (pages + missing) * size >= length + new
    assert missing == 0 or (pages + missing - 1) * size < length + new


def test_a_prefix_lies_in_its_pages_in_order() -> None:
    shapes = [LayerShape(2, 4, 4), LayerShape(2, 4, 4)]
    kv = KV(shapes, pages=6, page_size=3, device=torch.device("cpu"), dtype=torch.float32)
    prefix = Prefix(tuple(torch.randn(2, 2, 7, 4) for _ in shapes))
    kv.write_prefix(prefix, [4, 1, 2])
    slots = [12, 13, 14, 3, 4, 5, 6]
    for layer, keys, values in zip(prefix.layers, kv.keys, kv.values, strict=True):
        assert torch.equal(keys[:, slots], layer[0])
        assert torch.equal(values[:, slots], layer[1])
    with pytest.raises(ValueError, match="do not hold"):
        kv.write_prefix(prefix, [0, 1])


def test_page_bytes_are_what_the_tensors_take() -> None:
    shapes = [LayerShape(2, 8, 6), LayerShape(1, 4, 4)]
    kv = KV(shapes, pages=5, page_size=4, device=torch.device("cpu"), dtype=torch.bfloat16)
    # And one slot behind them, where captured passes write what nobody reads.
    assert kv.page_bytes * 5 + kv.page_bytes // 4 == sum(t.nbytes for t in kv.keys + kv.values)
    assert kv.spare == 20
