"""Stacks: copies of the LoRAs that decoding uses, side by side, so that one batched product serves many rows.

Many rows of one token each, under as many adapters, spend as long on the calls of `delta.apply_` as on its products. A stack
holds the LoRAs of one rank under one module that such rows use, and takes a few calls for all of them. From one step to the
next few rows change, so that only what is new is copied.

Does not touch rows of several tokens, sums, biases, or DoRA: `delta.apply_` does those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
        uses: dict[int, dict[str, _Use]] = {}
        rest: list[Segment] = []
        for segment in segments:
            start, stop, terms = segment
            update = _only_low_rank(terms, updates) if stop - start == 1 else None
            if update is not None and terms[0][1] not in (of_rank := uses.setdefault(len(update.a), {})):
                of_rank[terms[0][1]] = _Use(segment, terms[0][0] * update.scale, update)
            elif any(digest in updates for _, digest in terms):
                rest.append(segment)
        used = []
        for rank, of_rank in uses.items():
            stack = self._by_rank.setdefault(rank, _Stack())
            if len(of_rank) >= _WORTH_STACKING and stack.hold(of_rank, self._budget):
                used.append(stack)
            else:
                rest += [use.segment for use in of_rank.values()]
        self._segments, self._used, self._rest = segments, used, rest


class _Use(NamedTuple):
    """A segment of one token, and the one update that it gets times `factor`."""

    segment: Segment
    factor: float
    update: LowRank


def _only_low_rank(
    terms: tuple[tuple[float, str], ...], updates: Mapping[str, Sequence[Update]]
) -> LowRank | None:
    group = updates.get(terms[0][1], ()) if len(terms) == 1 else ()
    if len(group) == 1 and type(update := group[0]) is LowRank and update.bias is None:
        return update
    return None


class _Stack:
    """LoRAs of one rank, a [slots, in, r] and b [slots, r, out], both read in the order of memory; and the rows they serve.

    The first slots hold what the last plan uses, `digests` says which.
    """

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.a = self.b = self.tokens = self.factors = torch.empty(0)

    @property
    def bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def hold(self, uses: Mapping[str, _Use], budget: StackBudget) -> bool:
        """Make the first slots hold what `uses` needs, copying what they lack; False where the budget has no room."""
        first = next(iter(uses.values())).update
        if len(uses) > len(self.a) and not self._grow(len(uses), first, budget):
            return False
        kept = {digest for digest in self.digests[: len(uses)] if digest in uses}
        missing = (digest for digest in uses if digest not in kept)
        self.digests = self.digests[: len(uses)] + [""] * (len(uses) - len(self.digests))
        for slot, digest in enumerate(self.digests):
            if digest not in kept:
                self.digests[slot] = new = next(missing)
                self.a[slot].copy_(uses[new].update.a_t)
                self.b[slot].copy_(uses[new].update.b_t)
        order = [uses[digest] for digest in self.digests]
        self.tokens = torch.tensor([use.segment.start for use in order], device=first.a.device)
        factors = torch.tensor([use.factor for use in order], device=first.a.device, dtype=first.a.dtype)
        self.factors = factors[:, None]
        return True

    def add_(self, x: torch.Tensor, y: torch.Tensor) -> None:
        chosen = x.index_select(0, self.tokens).to(self.a.dtype)
        shrunk = times(chosen, self.a).mul_(self.factors)
        y.index_add_(0, self.tokens, times(shrunk, self.b).to(y.dtype))

    def _grow(self, count: int, like: LowRank, budget: StackBudget) -> bool:
        slots = -(-count // 8) * 8
        more = slots * (like.a.nbytes + like.b.nbytes) - self.bytes
        if more > budget.left:
            return False
        budget.left -= more
        with torch.inference_mode(False):  # may be written to by passes in and out of inference mode
            a, b = like.a.new_empty(slots, *like.a_t.shape), like.b.new_empty(slots, *like.b_t.shape)
        if self.digests:
            a[: len(self.a)].copy_(self.a)
            b[: len(self.b)].copy_(self.b)
        self.a, self.b = a, b
        return True


def times(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Each row times the matrix of its place: rows [n, k], the first n of matrices [slots, k, m] -> [n, m]."""
    count, size = rows.shape
    if matrices.device.type != "cpu" or matrices.dtype != torch.float32:
        return torch.bmm(rows[:, None], matrices[:count])[:, 0]
    # A weighted sum of the matrix's rows, as an embedding looks them up: at the speed of memory, unlike products of one row.
    places = _places(count * size)
    return F.embedding_bag(
        places,
        matrices.flatten(0, 1),
        places[::size].contiguous(),
        mode="sum",
        per_sample_weights=rows.flatten(),
    )


def _places(count: int) -> torch.Tensor:
    """0, 1, ..., below `count`: a view of one tensor that all share and that grows."""
    global _PLACES  # noqa: PLW0603
    if count > len(_PLACES):
        with torch.inference_mode(False):
            _PLACES = torch.arange(2 * count)
    return _PLACES[:count]


_PLACES = torch.arange(1 << 16)
