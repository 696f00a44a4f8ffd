"""Paged keys and values: which pages are whose, and the tensors behind them.

A page holds the keys and values of `page_size` tokens in every layer. `Pages` counts holders of pages, so that prompts and
prefix adapters are kept once for all who use them (Kwon et al. 2023, PagedAttention); `Held` is what one request holds.
A request's pages are mostly consecutive, which lets attention on the CPU read its keys and values where they are.

Does not compute attention, know requests, or decide who gets pages when they run out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from adapthub.adapters.flat import Prefix


class OutOfPages(Exception):
    """Fewer pages are free than asked for; the engine evicts, waits or preempts. No user sees it."""


class Pages:
    """Which of `count` pages are held, and by how many holders. Not safe to use from several threads."""

    def __init__(self, count: int) -> None:
        self._holders = [0] * count
        self._kept = bytearray(count)
        self._idle = 0
        # Runs of free pages, [start, stop), by either end; no two of them touch.
        self._stop_of: dict[int, int] = {}
        self._start_of: dict[int, int] = {}
        # (-length, start) of runs, some of them gone since: read only through `_largest`.
        self._by_length: list[tuple[int, int]] = []
        self._free = 0
        if count:
            self._add_run(0, count)

    @property
    def count(self) -> int:
        """All pages, free or held."""
        return len(self._holders)

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return self._free

    @property
    def idle(self) -> int:
        """Pages that nobody holds but the cache that keeps them."""
        return self._idle

    def holders(self, page: int) -> int:
        """How many hold `page`."""
        return self._holders[page]

    def take(self, count: int, after: int | None = None) -> list[int]:
        """`count` free pages, each with one holder now: behind the caller's page `after` while those are free, then from
        the middle of the largest free run, so that whoever sits before it can grow too.

        Raises OutOfPages, and then has taken nothing.
        """
        if count > self._free:
            raise OutOfPages(f"{count} pages wanted, {self._free} free")
        taken: list[int] = []
        if after is not None and after + 1 in self._stop_of:
            start = after + 1
            taken += self._cut(start, start, min(self._stop_of[start], start + count))
        while len(taken) < count:
            start, stop = self._largest()
            missing = min(count - len(taken), stop - start)
            first = start + (stop - start - missing) // 2 if start else 0
            taken += self._cut(start, first, first + missing)
        return taken

    def share(self, pages: Sequence[int]) -> None:
        """One more holder of each page, all of which are held already."""
        if any(self._holders[page] == 0 for page in pages):
            raise ValueError("a free page cannot be shared")
        for page in pages:
            self._idle -= self._kept[page] and self._holders[page] == 1
            self._holders[page] += 1

    def keep(self, page: int) -> None:
        """One more holder of `page`, which somebody holds: a cache, at most once."""
        self.share([page])
        self._kept[page] = True

    def drop(self, page: int) -> None:
        """The cache's hold on `page` is given back."""
        self._idle -= self._holders[page] == 1
        self._kept[page] = False
        self.give_back([page])

    def give_back(self, pages: Sequence[int]) -> None:
        """One holder less of each page; a page that nobody holds any more is free."""
        freed = []
        for page in pages:
            if self._holders[page] == 0:
                raise ValueError(f"page {page} is given back more often than it was taken")
            self._holders[page] -= 1
            self._idle += self._kept[page] and self._holders[page] == 1
            if self._holders[page] == 0:
                freed.append(page)
        for start, length in _runs(sorted(freed)):
            self._free_run(start, start + length)

    def _cut(self, start: int, first: int, last: int) -> list[int]:
        """Take [first, last) out of the free run that begins at `start`."""
        stop = self._stop_of[start]
        self._drop_run(start, stop)
        if start < first:
            self._add_run(start, first)
        if last < stop:
            self._add_run(last, stop)
        for page in range(first, last):
            self._holders[page] = 1
        return list(range(first, last))

    def _free_run(self, start: int, stop: int) -> None:
        if start in self._start_of:
            before = self._start_of[start]
            self._drop_run(before, start)
            start = before
        if stop in self._stop_of:
            after = self._stop_of[stop]
            self._drop_run(stop, after)
            stop = after
        self._add_run(start, stop)

    def _add_run(self, start: int, stop: int) -> None:
        self._stop_of[start] = stop
        self._start_of[stop] = start
        self._free += stop - start
        heapq.heappush(self._by_length, (start - stop, start))
        if len(self._by_length) > 64 + 4 * len(self._stop_of):
            self._by_length = [(a - b, a) for a, b in self._stop_of.items()]
            heapq.heapify(self._by_length)

    def _drop_run(self, start: int, stop: int) -> None:
        del self._stop_of[start], self._start_of[stop]
        self._free -= stop - start

    def _largest(self) -> tuple[int, int]:
        while True:
            negative, start = self._by_length[0]
            if self._stop_of.get(start) == start - negative:
                return start, start - negative
            heapq.heappop(self._by_length)


@dataclass
class Held:
    """What one request holds: a prefix adapter's pages, then its own, and how many tokens are in them.

    `length` counts the tokens of its own, behind the prefix, whose keys and values are written. `pages` and `prefix_pages`
    may grow at their end; nothing else about them changes.
    """

    prefix_pages: Sequence[int] = ()
    prefix_length: int = 0
    pages: list[int] = field(default_factory=list)
    length: int = 0
    _own_runs: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False)
    _counted: int = field(default=0, init=False, repr=False)

    def missing(self, new: int, page_size: int) -> int:
        """Pages of its own that it lacks for `new` more tokens."""
        return max(0, -(-(self.length + new) // page_size) - len(self.pages))

    def slots(self, first: int, last: int, page_size: int) -> list[int]:
        """The slots of its tokens [first, last), counted from the prefix's first."""
        if first >= self.prefix_length:
            first, last = first - self.prefix_length, last - self.prefix_length
            return [self.pages[i // page_size] * page_size + i % page_size for i in range(first, last)]
        prefix = [
            self.prefix_pages[i // page_size] * page_size + i % page_size
            for i in range(first, min(last, self.prefix_length))
        ]
        return prefix + self.slots(self.prefix_length, max(last, self.prefix_length), page_size)

    def spans(self, first: int, last: int, page_size: int) -> list[tuple[int, int]]:
        """Where its tokens [first, last) lie, counted from the prefix's first: [start, stop) slots of the pool in order."""
        prefix, rest = [], max(first, self.prefix_length)
        if first < self.prefix_length:
            prefix = _spans(_runs(self.prefix_pages), first, min(last, self.prefix_length), page_size)
        self._count_runs()
        return prefix + _spans(
            self._own_runs, rest - self.prefix_length, last - self.prefix_length, page_size
        )

    def _count_runs(self) -> None:
        # Only what is new: a long request's pages are not walked again for each of its tokens.
        for page in self.pages[self._counted :]:
            if self._own_runs and sum(self._own_runs[-1]) == page:
                self._own_runs[-1] = (self._own_runs[-1][0], self._own_runs[-1][1] + 1)
            else:
                self._own_runs.append((page, 1))
        self._counted = len(self.pages)


@dataclass(frozen=True)
class LayerShape:
    """One layer's keys and values: kv heads, and the sizes of a head's key and value."""

    heads: int
    size: int
    value_size: int


class KV:
    """One pool of keys [kv heads, slots + 1, head size] a layer, and one of values alike; `slots` is pages * page_size.

    A token's slot is page * page_size + its place in the page. `page_bytes` is what a page takes over all layers.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        pages: int,
        page_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.page_size = page_size
        self.page_bytes = page_bytes(shapes, page_size, dtype)
        self.slots = pages * page_size
        # Behind all pages: where a captured pass writes what nobody reads.
        self.spare = self.slots
        slots = self.slots + 1
        self.keys = [torch.empty(s.heads, slots, s.size, device=device, dtype=dtype) for s in shapes]
        self.values = [torch.empty(s.heads, slots, s.value_size, device=device, dtype=dtype) for s in shapes]

    def write_prefix(self, prefix: Prefix, pages: Sequence[int]) -> None:
        """Put a prefix adapter's keys and values into `pages`, from their beginning."""
        spans = _spans(_runs(pages), 0, prefix.length, self.page_size)
        if sum(stop - start for start, stop in spans) != prefix.length:
            raise ValueError(f"{len(pages)} pages do not hold a prefix of {prefix.length} tokens")
        for layer, keys, values in zip(prefix.layers, self.keys, self.values, strict=True):
            done = 0
            for start, stop in spans:
                part = layer[:, :, done : done + stop - start]
                keys[:, start:stop].copy_(part[0])
                values[:, start:stop].copy_(part[1])
                done += stop - start


def page_bytes(shapes: Sequence[LayerShape], page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers."""
    return page_size * dtype.itemsize * sum(s.heads * (s.size + s.value_size) for s in shapes)


def _runs(pages: Sequence[int]) -> list[tuple[int, int]]:
    """(first page, pages) of each stretch of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and sum(runs[-1]) == page:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((page, 1))
    return runs


def _spans(runs: Sequence[tuple[int, int]], first: int, last: int, page_size: int) -> list[tuple[int, int]]:
    spans = []
    before = 0
    for page, count in runs:
        low, high = max(first - before, 0), min(last - before, count * page_size)
        if low < high:
            spans.append((page * page_size + low, page * page_size + high))
        before += count * page_size
    return spans
