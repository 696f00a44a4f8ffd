"""What an adapter adds to one module's output: a naive reference, and the fast path over sorted rows.

Every update is additive: for a module with input x and base output y, an adapter j contributes d_j(x, y), and a row with
weights w_j gets y + sum_j w_j * d_j(x, y). So one adapter, a weighted expression and the base itself are one rule, exact
also for DoRA, whose d depends on y.

`apply_` runs one pair of matrix products per run of rows with the same adapters (rows are sorted once per batch, not per
layer), straight on views: a grouped GEMM whose groups are the segments. Measured on CPU against
`torch.nn.functional.grouped_mm` and gather + bmm: as fast or faster from 16 tokens up, without copying adapters into a
padded stack, so mixed ranks cost what they read (benchmarks/delta.py).

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
    # Made once: a product of few tokens costs little more than a view or a length.
    rank: int = field(init=False)
    a_t: torch.Tensor = field(init=False)
    b_t: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", len(self.a))
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
class TokenRows:
    """Trainable tokens under an embedding: rows of some tokens less the base's; ids [k], change [k, hidden]."""

    ids: torch.Tensor
    change: torch.Tensor

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x[..., None] == self.ids).to(y.dtype) @ self.change


@dataclass(frozen=True)
class TokenLogits:
    """The same tokens under an output layer that shares the embedding's weight: logits of these ids alone change."""

    ids: torch.Tensor
    change: torch.Tensor

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(y).index_copy_(-1, self.ids, (x @ self.change.T).to(y.dtype))


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
) -> None:
    """Add every segment's updates to y in place.

    x [n, in] (or ids [n]) and y [n, out] hold the batch's tokens, `segments` are runs of them that do not overlap;
    `updates` maps the digests that touch this module to what they add. Tokens of segments without an update here are not
    read.
    """
    for start, stop, terms in segments:
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
    if rows.dtype == out.dtype == update.a.dtype:
        out.addmm_(torch.mm(rows, update.a_t), update.b_t, alpha=weight * update.scale)
    else:
        out += torch.mm(torch.mm(rows.to(update.a.dtype), update.a_t), update.b_t).mul_(weight * update.scale)
    if update.bias is not None:
        out.add_(update.bias, alpha=weight)
