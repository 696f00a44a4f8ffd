"""Stacks: copies of the LoRAs that decoding uses, side by side, so that one batched product serves many rows.

Many rows of one token each, under as many adapters, spend as long on the calls of `delta.apply_` as on its products. A stack
holds the LoRAs of one rank under one module that such rows use, and takes a few calls for all of them. From one step to the
next few rows change, and a copy keeps its slot until another needs it, so that only what is new is copied.

Does not touch rows of several tokens, sums, biases, or DoRA: `delta.apply_` does those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import cast
from weakref import WeakValueDictionary

import torch
from torch.nn import functional as F

from adapthub.adapters.delta import LowRank, Segment, Update

# Rows of one rank from which one batched product, with its gather and scatter, beats a pair of products a row.
_WORTH_STACKING = 4


@dataclass
class StackBudget:
    """Bytes that stacks may still take, all modules of a base together."""

    left: int


class Stacks:
    """Copies of the LoRAs under one module that rows of one token use, one stack a rank.

    A digest stands for the same tensors for ever, so a plan holds as long as the segments do. Not thread-safe.
    """

    def __init__(self, budget: StackBudget) -> None:
        self._budget = budget
        self._by_rank: dict[int, _Stack] = {}
        self._segments: tuple[Segment, ...] = ()
        self._used: list[_Stack] = []
        self._rest: list[Segment] = []

    def add_(
        self,
        segments: tuple[Segment, ...],
        updates: Mapping[str, Sequence[Update]],
        x: torch.Tensor,
        y: torch.Tensor,
    ) -> Sequence[Segment]:
        """Do what `delta.apply_` does for those segments that a stack serves; returns the others that have an update."""
        if segments != self._segments:
            self._plan(segments, updates)
        for stack in self._used:
            stack.add_(x, y)
        return self._rest

    def drop(self) -> None:
        """Forget all copies and give their bytes back to the budget."""
        self._budget.left += sum(stack.bytes for stack in self._by_rank.values())
        self._by_rank.clear()
        self._segments, self._used, self._rest = (), [], []

    def _plan(self, segments: tuple[Segment, ...], updates: Mapping[str, Sequence[Update]]) -> None:
        # What is half made when something fails below must serve nobody.
        self._segments, self._used, self._rest = (), [], []
        groups, others = _grouped(segments, tuple([_kind(segment, updates) for segment in segments]))
        used, rest = [], list(others)
        for group in groups:
            if group.rank not in self._by_rank:
                self._by_rank[group.rank] = _Stack()
            stack = self._by_rank[group.rank]
            if stack.hold(group, updates, self._budget):
                used.append(stack)
            else:
                rest += group.segments
        self._segments, self._used, self._rest = segments, used, rest


# What a stack must know of the one LoRA that a segment of one token gets: its rank and scale. Zeros for anything else that
# touches the module, None for nothing.
_Kind = tuple[int, float] | None
_OTHER = 0, 0.0


def _kind(segment: Segment, updates: Mapping[str, Sequence[Update]]) -> _Kind:
    start, stop, terms = segment
    if len(terms) != 1:
        return _OTHER if any(digest in updates for _, digest in terms) else None
    group = updates.get(terms[0][1])
    if not group:
        return None
    alone = stop - start == 1 and len(group) == 1
    if alone and type(update := group[0]) is LowRank and update.bias is None:
        return update.rank, update.scale
    return _OTHER


@dataclass(frozen=True)
class _Group:
    """Segments of one token whose LoRAs have one rank: where the tokens are, and each one's weight times scale, [n, 1]."""

    rank: int
    segments: tuple[Segment, ...]
    digests: tuple[str, ...]
    tokens: slice | torch.Tensor
    factors: torch.Tensor


@lru_cache(maxsize=1024)  # more than a base has modules, which may all differ
def _grouped(segments: tuple[Segment, ...], kinds: tuple[_Kind, ...]) -> tuple[list[_Group], list[Segment]]:
    """What a stack can serve of `segments`, and the others that have an update: once for all modules of one kind."""
    of_rank: dict[int, dict[str, tuple[Segment, float]]] = {}
    rest = []
    for segment, kind in zip(segments, kinds, strict=True):
        if kind is None:
            continue
        rank, scale = kind
        weight, digest = segment.terms[0]
        if rank and digest not in (found := of_rank.setdefault(rank, {})):
            found[digest] = segment, weight * scale
        else:
            rest.append(segment)
    groups = []
    for rank, found in of_rank.items():
        its, factors = zip(*found.values(), strict=True)
        if len(its) < _WORTH_STACKING:
            rest += its
            continue
        places = _places([segment.start for segment in its])
        groups.append(_Group(rank, its, tuple(found), places, torch.tensor(factors)[:, None]))
    return groups, rest


def _places(starts: Sequence[int]) -> slice | torch.Tensor:
    """Places as a slice where they follow each other, which reads and writes without a copy."""
    if all(b - a == 1 for a, b in pairwise(starts)):
        return slice(starts[0], starts[-1] + 1)
    return torch.tensor(starts)


class _Stack:
    """LoRAs of one rank, a [slots, in, r] and b [slots, r, out], both read in the order of memory; and the rows they serve.

    `slot_of` says which slot holds whose copy, the oldest copy first; `free` are the others.
    """

    def __init__(self) -> None:
        self.slot_of: dict[str, int] = {}
        self.free: list[int] = []
        self.a = self.b = self.factors = torch.empty(0)
        self.tokens: slice | torch.Tensor = slice(0)
        self.slots = Slots(())

    @property
    def bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def hold(self, group: _Group, updates: Mapping[str, Sequence[Update]], budget: StackBudget) -> bool:
        """Copy what `group` needs and no slot holds; False where the budget has no room."""
        if len(group.digests) > len(self.a) and not self._grow(group, updates, budget):
            return False
        if missing := [digest for digest in group.digests if digest not in self.slot_of]:
            self._copy(missing, group, updates)
        self.slots = Slots.of(tuple([self.slot_of[digest] for digest in group.digests]))
        self.factors = group.factors.to(self.a)
        self.tokens = group.tokens
        if isinstance(self.tokens, torch.Tensor):
            self.tokens = self.tokens.to(self.a.device)
        return True

    def add_(self, x: torch.Tensor, y: torch.Tensor) -> None:
        chosen = x[self.tokens].to(self.a.dtype)
        added = times(times(chosen, self.a, self.slots).mul_(self.factors), self.b, self.slots).to(y.dtype)
        if isinstance(self.tokens, slice):
            y[self.tokens].add_(added)
        else:
            y.index_add_(0, self.tokens, added)

    def _copy(self, missing: Sequence[str], group: _Group, updates: Mapping[str, Sequence[Update]]) -> None:
        idle = iter([digest for digest in self.slot_of if digest not in group.digests])
        for digest in missing:
            if not self.free:
                self.free.append(self.slot_of.pop(next(idle)))
            slot, update = self.free[-1], _low_rank(digest, updates)
            self.a[slot].copy_(update.a_t)
            self.b[slot].copy_(update.b_t)
            self.slot_of[digest] = self.free.pop()

    def _grow(self, group: _Group, updates: Mapping[str, Sequence[Update]], budget: StackBudget) -> bool:
        slots = -(-len(group.digests) // 8) * 8
        like = _low_rank(group.digests[0], updates)
        more = slots * (like.a.nbytes + like.b.nbytes) - self.bytes
        if more > budget.left:
            return False
        with torch.inference_mode(False):  # may be written to by passes in and out of inference mode
            a, b = like.a.new_empty(slots, *like.a_t.shape), like.b.new_empty(slots, *like.b_t.shape)
        if self.slot_of:
            a[: len(self.a)].copy_(self.a)
            b[: len(self.b)].copy_(self.b)
        budget.left -= more
        self.free += reversed(range(len(self.a), slots))  # taken from the end: slots that follow each other
        self.a, self.b = a, b
        return True


def _low_rank(digest: str, updates: Mapping[str, Sequence[Update]]) -> LowRank:
    return cast(LowRank, updates[digest][0])


class Slots:
    """Which matrix of a stack each of some rows is multiplied by; modules whose stacks agree share one, and its indices."""

    def __init__(self, slots: tuple[int, ...]) -> None:
        self._slots = torch.tensor(slots, dtype=torch.int32)
        self._follow = all(b - a == 1 for a, b in pairwise(slots))
        self._on: dict[torch.device, torch.Tensor] = {}
        self._lookups: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def of(cls, slots: tuple[int, ...]) -> Slots:
        """The one for `slots`, as long as anything holds it."""
        found = _SHARED.get(slots)
        if found is None:
            _SHARED[slots] = found = cls(slots)
        return found

    def of_stack(self, matrices: torch.Tensor) -> torch.Tensor:
        """The matrices in these slots, [n, k, m]: a view where the slots follow each other."""
        if self._follow and len(self._slots):
            first = int(self._slots[0])
            return matrices[first : first + len(self._slots)]
        if matrices.device not in self._on:
            self._on[matrices.device] = self._slots.to(matrices.device)
        return matrices.index_select(0, self._on[matrices.device])

    def lookup(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the `size` rows of every matrix lie among all of a stack's, [n * size], and where each one starts there."""
        if size not in self._lookups:
            places = self._slots[:, None] * size + torch.arange(size, dtype=torch.int32)
            starts = torch.arange(0, places.numel(), size, dtype=torch.int32)
            self._lookups[size] = places.flatten(), starts
        return self._lookups[size]


_SHARED: WeakValueDictionary[tuple[int, ...], Slots] = WeakValueDictionary()


def times(rows: torch.Tensor, matrices: torch.Tensor, slots: Slots) -> torch.Tensor:
    """Each row times the matrix in its slot: rows [n, k], matrices [slots, k, m] -> [n, m]."""
    if matrices.device.type != "cpu" or matrices.dtype != torch.float32:
        return torch.bmm(rows[:, None], slots.of_stack(matrices))[:, 0]
    # A weighted sum of the matrix's rows, as an embedding looks them up: at the speed of memory, unlike products of one row.
    places, starts = slots.lookup(rows.shape[1])
    return F.embedding_bag(
        places, matrices.flatten(0, 1), starts, mode="sum", per_sample_weights=rows.flatten()
    )
