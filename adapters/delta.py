"""What an adapter adds to one module's output: a naive reference, and the fast path over sorted rows.

Every update is additive: for a module with input x and base output y, an adapter j contributes d_j(x, y), and a row with
weights w_j gets y + sum_j w_j * d_j(x, y). So one adapter, a weighted expression and the base itself are one rule, exact
also for DoRA, whose d depends on y.

`apply_` runs one pair of matrix products per run of rows with the same adapters (rows are sorted once per batch, not per
layer), straight on views: a grouped GEMM whose groups are the segments. Measured on CPU against
`torch.nn.functional.grouped_mm` and gather + bmm: as fast or faster from 16 tokens up, without copying adapters into a
padded stack, so mixed ranks cost what they read (benchmarks/delta.py).

Many rows of one token each (decoding) under as many LoRAs are another matter: there the calls cost as much as the products.
`Stacks` keeps copies of those in use side by side, so that one batched product a rank serves them.

Does not find modules, load files or choose rows. Inference only: outputs are changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional as F


class Update(Protocol):
    """What one adapter adds to one module."""

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """d(x, y) for input x [n, in] (token ids [n] for an embedding) and base output y [n, out]: [n, out]."""


@dataclass(frozen=True)
class LowRank:
    """LoRA: scale * (x A^T) B^T + bias; a [r, in], b [out, r], bias [out] already scaled (Hu et al. 2021, eq. 3)."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    bias: torch.Tensor | None = None
    a_t: torch.Tensor = field(
        init=False
    )  # views, made once: a product of few tokens costs little more than one
    b_t: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "a_t", self.a.T)
        object.__setattr__(self, "b_t", self.b.T)

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        update = (x.to(self.a.dtype) @ self.a.T) @ self.b.T * self.scale
        return update if self.bias is None else update + self.bias


@dataclass(frozen=True)
class Dora:
    """DoRA: (gain - 1) * (y - base bias) + gain * scale * (x A^T) B^T (Liu et al. 2024, eq. 5).

    gain [out] is magnitude / |W + scale * B A|, over the *dequantised* weight, once, when the adapter is bound.
    """

    low_rank: LowRank
    gain: torch.Tensor
    base_bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weighted = y if self.base_bias is None else y - self.base_bias
        return (self.gain - 1) * weighted + self.gain * self.low_rank(x, y)


@dataclass(frozen=True)
class EmbeddingLowRank:
    """LoRA under an embedding: scale * A[:, ids]^T B^T; a_t [vocabulary, r] (A transposed), b [out, r]."""

    a_t: torch.Tensor
    b: torch.Tensor
    scale: float

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.embedding(x, self.a_t) @ self.b.T * self.scale


@dataclass(frozen=True)
class Shift:
    """A constant: the adapter's own bias less the base's; value [out]."""

    value: torch.Tensor

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.value.expand_as(y)


@dataclass(frozen=True)
class Scaled:
    """IA3 on a module's output: (l - 1) * y; change [out] is l - 1 (Liu et al. 2022, sec. 3.3)."""

    change: torch.Tensor

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.change * y


@dataclass(frozen=True)
class ScaledInput:
    """IA3 on a module's input: W ((l - 1) * x); change [in] is l - 1, `module` the base's layer without its bias."""

    change: torch.Tensor
    module: torch.nn.Module

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.module(self.change * x)
        return result


@dataclass(frozen=True)
class Replacement:
    """A module that the adapter brings whole (`modules_to_save`): its output less the base's."""

    module: torch.nn.Module

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.module(x)
        return result - y


class Segment(NamedTuple):
    """Tokens [start, stop) whose rows all use the same adapters: (weight, digest) terms; none for the base."""

    start: int
    stop: int
    terms: tuple[tuple[float, str], ...]


def apply_(
    segments: Sequence[Segment],
    updates: Mapping[str, Sequence[Update]],
    x: torch.Tensor,
    y: torch.Tensor,
    stacks: Stacks | None = None,
) -> None:
    """Add every segment's updates to y in place.

    x [n, in] (or ids [n]) and y [n, out] hold the batch's tokens, `segments` cover them, in order; `updates` maps the
    digests that touch this module to what they add. Tokens of segments without an update here are not read. `stacks` are
    this module's, kept from pass to pass.
    """
    for start, stop, terms in segments if stacks is None else stacks.add_(tuple(segments), updates, x, y):
        if len(terms) == 1:
            weight, digest = terms[0]
            group = updates.get(digest, ())
            if len(group) == 1 and type(group[0]) is LowRank:
                _add_low_rank_(y[start:stop], x[start:stop], group[0], weight)
                continue
        total = _sum(terms, updates, x[start:stop], y[start:stop])
        if total is not None:
            y[start:stop].add_(total)


def _sum(
    terms: Sequence[tuple[float, str]],
    updates: Mapping[str, Sequence[Update]],
    rows: torch.Tensor,
    out: torch.Tensor,
) -> torch.Tensor | None:
    """All terms' updates of one segment, each from the base's own output; None where no term has one here."""
    parts = [weight * update(rows, out) for weight, digest in terms for update in updates.get(digest, ())]
    return torch.stack(parts).sum(0) if parts else None


# Rows of one rank from which one batched product, with its gather and scatter, beats a pair of products a row.
_WORTH_STACKING = 4


@dataclass
class StackBudget:
    """Bytes that stacks may still take, all modules of a base together."""

    left: int


class Stacks:
    """Copies of the LoRAs under one module that rows of one token use, one stack a rank.

    From one decoding step to the next few rows change: what stayed is neither copied nor looked up again. A digest stands
    for the same tensors for ever, so a plan holds as long as the segments do. Not thread-safe.
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
        """Do what `apply_` does for those segments that a stack serves; returns the others that have an update."""
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
    """LoRAs of one rank, a [slots, r, in] and b [slots, r, out], both read in the order of memory; and the rows they serve.

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
                self.a[slot].copy_(uses[new].update.a)
                self.b[slot].copy_(uses[new].update.b_t)
        order = [uses[digest] for digest in self.digests]
        self.tokens = torch.tensor([use.segment.start for use in order], device=first.a.device)
        factors = torch.tensor([use.factor for use in order], device=first.a.device, dtype=first.a.dtype)
        self.factors = factors[:, None, None]
        return True

    def add_(self, x: torch.Tensor, y: torch.Tensor) -> None:
        count = len(self.digests)
        chosen = x.index_select(0, self.tokens).to(self.a.dtype)[:, None]
        shrunk = torch.bmm(chosen, self.a[:count].transpose(1, 2)).mul_(self.factors)
        y.index_add_(0, self.tokens, torch.bmm(shrunk, self.b[:count])[:, 0].to(y.dtype))

    def _grow(self, count: int, like: LowRank, budget: StackBudget) -> bool:
        slots = -(-count // 8) * 8
        more = slots * (like.a.nbytes + like.b.nbytes) - self.bytes
        if more > budget.left:
            return False
        budget.left -= more
        with torch.inference_mode(False):  # may be written to by passes in and out of inference mode
            a, b = like.a.new_empty(slots, *like.a.shape), like.b.new_empty(slots, *like.b_t.shape)
        if self.digests:
            a[: len(self.a)].copy_(self.a)
            b[: len(self.b)].copy_(self.b)
        self.a, self.b = a, b
        return True


def reference(
    segments: Sequence[Segment], updates: Mapping[str, Sequence[Update]], x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """The same by the plainest loop, a token and a term at a time, in a new tensor: the oracle of `apply_`."""
    result = y.clone()
    for segment in segments:
        for token in range(segment.start, segment.stop):
            for weight, digest in segment.terms:
                for update in updates.get(digest, ()):
                    result[token] += weight * update(x[token : token + 1], y[token : token + 1])[0]
    return result


def _add_low_rank_(out: torch.Tensor, rows: torch.Tensor, update: LowRank, weight: float) -> None:
    shrunk = torch.mm(rows if rows.dtype == update.a.dtype else rows.to(update.a.dtype), update.a_t)
    if out.dtype == update.b.dtype:
        out.addmm_(shrunk, update.b_t, alpha=weight * update.scale)
    else:
        out += torch.mm(shrunk, update.b_t).mul_(weight * update.scale)
    if update.bias is not None:
        out.add_(update.bias, alpha=weight)
