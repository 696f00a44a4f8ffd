"""The rows of one paged pass: where each one's tokens are in the input, and where its keys and values are in the pool.

Made once a pass and read by every layer, so that what depends only on rows and sliding window is computed once. Does not
compute attention.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adapthub.runtime.kv import KV, Held

# Devices where rows with one token read their keys in place: torch samples products of float32 there.
_IN_PLACE = ("cpu",)
# Parts of memory that are read one by one; more of them are copied together first.
_MOST_PARTS = 8

with warnings.catch_warnings():
    # The first sparse matrix of a process, and only that, makes torch say that they are in beta: said to nobody here.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(
        torch.tensor([0, 0]), torch.tensor([], dtype=torch.long), torch.tensor([]), (1, 1)
    )


class Row:
    """One row: `new` tokens at `start` of the input, behind `past` keys that are written already (a prefix's first)."""

    def __init__(self, held: Held, new: int, start: int, kv: KV) -> None:
        self.new, self.start = new, start
        self.past = held.prefix_length + held.length
        self._held, self._page_size = held, kv.page_size
        self._spans: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._indices: dict[tuple[int, int], torch.Tensor] = {}

    def first(self, window: int | None) -> int:
        """The first key that any of its queries sees."""
        return 0 if window is None else max(0, self.past - window + 1)

    def spans(self, first: int, last: int) -> list[tuple[int, int]]:
        """Slots [start, stop) of its keys [first, last)."""
        key = first, last
        if key not in self._spans:
            self._spans[key] = self._held.spans(first, last, self._page_size)
        return self._spans[key]

    def parts(self, pool: torch.Tensor, first: int, last: int) -> list[torch.Tensor]:
        """Its keys or values [first, last) out of a pool [kv heads, slots, size]: views where they are in few places."""
        spans = self.spans(first, last)
        if len(spans) <= _MOST_PARTS:
            return [pool[:, start:stop] for start, stop in spans]
        key = first, last
        if key not in self._indices:
            slots = [slot for start, stop in spans for slot in range(start, stop)]
            self._indices[key] = torch.tensor(slots, device=pool.device)
        return [pool.index_select(1, self._indices[key])]


@dataclass(frozen=True)
class StepKeys:
    """The keys that the steps see, as entries of one sparse `matrix` [steps * heads, kv heads * slots].

    `columns`: of every entry, a step's heads one after the other; `starts`: of every row in them. `scores` are the entries'
    values, the matrix's own memory, and `blocks` views of it, [heads, keys] a step.
    """

    matrix: torch.Tensor
    columns: torch.Tensor
    starts: torch.Tensor
    scores: torch.Tensor
    blocks: Sequence[torch.Tensor]


class Batch:
    """The rows of one pass over `kv`: `steps` have one token each, `chunks` are the other rows.

    Steps are read in place, as `step_keys` says, or where `in_place` is false from copies, as `gathered` says. In half
    precision in place they are chunks: torch samples no products of theirs.
    """

    def __init__(self, kv: KV, rows: Sequence[tuple[Held, int]]) -> None:
        device = kv.keys[0].device
        self.kv = kv
        self.in_place = device.type in _IN_PLACE
        stepping = not self.in_place or kv.keys[0].dtype == torch.float32
        self.steps: list[Row] = []
        self.chunks: list[Row] = []
        slots: list[int] = []
        for held, new in rows:
            row = Row(held, new, len(slots), kv)
            (self.steps if new == 1 and stepping else self.chunks).append(row)
            for start, stop in row.spans(row.past, row.past + new):
                slots.extend(range(start, stop))
            if len(slots) != row.start + new:
                raise ValueError(f"a row of {new} tokens has pages for {len(slots) - row.start}")
        self.slots = torch.tensor(slots, device=device)
        self.step_places = torch.tensor([row.start for row in self.steps], device=device)
        self._masks: dict[tuple[int, int, int | None], torch.Tensor | None] = {}
        self._gathered: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {}
        self._step_keys: dict[tuple[int, int, int | None], StepKeys] = {}

    def mask(
        self, row: Row, low: int, high: int, window: int | None, like: torch.Tensor
    ) -> torch.Tensor | None:
        """What is added to the scores of the row's queries [low, high) over the keys from `row.first(window)` to the last
        that they may see."""
        key = (row.start + low, row.start + high, window)
        if key not in self._masks:
            queries = range(row.past + low, row.past + high)
            self._masks[key] = causal_mask(queries, range(row.first(window), queries.stop), window, like)
        return self._masks[key]

    def step_keys(self, heads: int, kv_heads: int, window: int | None) -> StepKeys:
        """What the steps see in layers of so many heads and kv heads; scores of one layer overwrite those of the last."""
        key = heads, kv_heads, window
        if key not in self._step_keys:
            slots = self.kv.keys[0].shape[1]
            seen = [
                torch.cat([torch.arange(a, b) for a, b in row.spans(row.first(window), row.past + 1)])
                for row in self.steps
            ]
            of_head = torch.arange(heads)[:, None] // (heads // kv_heads) * slots
            columns = torch.cat([(of_head + own).flatten() for own in seen])
            counts = torch.tensor([len(own) for own in seen])
            ends = counts.repeat_interleave(heads).cumsum(0)
            starts = torch.cat([ends.new_zeros(1), ends])
            matrix = torch.sparse_csr_tensor(
                starts,
                columns,
                torch.zeros(len(columns)),
                (len(ends), kv_heads * slots),
                check_invariants=False,
            )
            scores = matrix.values()
            blocks = [block.view(heads, -1) for block in scores.split((counts * heads).tolist())]
            self._step_keys[key] = StepKeys(matrix, columns, starts[:-1], scores, blocks)
        return self._step_keys[key]

    def gathered(self, window: int | None, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots [steps, S] of the keys that the steps see, filled up with a row's own first, and a mask [steps, 1, 1, S]."""
        if window not in self._gathered:
            lists = [
                [slot for a, b in row.spans(row.first(window), row.past + 1) for slot in range(a, b)]
                for row in self.steps
            ]
            longest = max(map(len, lists))
            slots = torch.tensor([row + row[:1] * (longest - len(row)) for row in lists])
            lengths = torch.tensor([len(row) for row in lists])
            beyond = torch.arange(longest) >= lengths[:, None]
            mask = torch.zeros(beyond.shape, dtype=like.dtype).masked_fill_(beyond, float("-inf"))
            self._gathered[window] = slots.to(like.device), mask[:, None, None].to(like.device)
        return self._gathered[window]


def causal_mask(queries: range, keys: range, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """[queries, keys]: 0 where a query sees a key, at or before its own position and less than `window` back, else -inf.

    None where one query sees all keys.
    """
    if (
        len(queries) == 1
        and keys.stop <= queries.stop
        and (window is None or queries.start - keys.start < window)
    ):
        return None
    place = torch.arange(queries.start, queries.stop, device=like.device)[:, None]
    back = place - torch.arange(keys.start, keys.stop, device=like.device)
    seen = back >= 0 if window is None else (back >= 0) & (back < window)
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))
