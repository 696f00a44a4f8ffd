"""What adapters add to one module's output, for tokens that each use another adapter: two launches whatever their number.

A token names its adapter's matrices by their addresses, so nothing is copied or padded, ranks differ freely, and a captured
CUDA graph serves other adapters once the addresses have changed in place. A token without an adapter keeps its bits.

Serves LoRA with its bias, and DoRA. Does not keep the matrices alive, find addresses, or check that they hold what it is
told: `adapters.entries` does.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# What a token is told of one update, in this order: addresses of a [r, in], b [out, r], bias [out] or 0, gain [out] or 0 and
# the base's bias [out] or 0 (both of DoRA), and r.
COLUMNS = A, B, BIAS, GAIN, BASE_BIAS, RANK = range(6)
# Factors beside them: of b (a x), and of everything else.
FACTORS = PRODUCT, WEIGHT = range(2)


def shrink(x: torch.Tensor, entries: torch.Tensor, factors: torch.Tensor, most: int) -> torch.Tensor:
    """The first half of `expand_`, which wants x alone: float32 [t, terms, most].

    x [t, in], entries int64 [t, terms, 6], factors float32 [t, terms, 2], of which the last dimension alone need be
    contiguous; no rank is above `most`.
    """
    tokens, terms, _ = entries.shape
    size = x.shape[1]
    low = torch.empty(tokens, terms, most, dtype=torch.float32, device=x.device)
    _shrink[(tokens, terms, triton.cdiv(most, _SHRUNK))](
        x,
        entries,
        factors,
        low,
        x.stride(0),
        *entries.stride()[:2],
        *factors.stride()[:2],
        most,
        IN=size,
        TERMS=terms,
        BLOCK_RANK=_SHRUNK,
        BLOCK_IN=min(512, triton.next_power_of_2(size)),
    )
    return low


def expand_(y: torch.Tensor, low: torch.Tensor, entries: torch.Tensor, factors: torch.Tensor) -> None:
    """Add to token t of y what the entries [t] say, given `low` by `shrink`, and y as it was.

    y [t, out] of x's dtype, which is that of all matrices; tokens and matrices contiguous. A rank of 0 without a gain or
    bias adds nothing. The terms' sum is rounded once.
    """
    tokens, terms, most = low.shape
    out = y.shape[1]
    block_out = min(128, triton.next_power_of_2(out))
    _expand[(tokens, triton.cdiv(out, block_out))](
        y,
        entries,
        factors,
        low,
        y.stride(0),
        *entries.stride()[:2],
        *factors.stride()[:2],
        most,
        OUT=out,
        TERMS=terms,
        BLOCK_RANK=_EXPANDED,
        BLOCK_OUT=block_out,
    )


# Ranks that a program computes, and reads at a time.
_SHRUNK, _EXPANDED = 4, 16
# Sizes that change from pass to pass: none is worth a kernel of its own.
_ANY = ["entry_token", "entry_term", "factor_token", "factor_term", "most"]


@triton.jit(do_not_specialize=_ANY)
def _shrink(
    x,
    entries,
    factors,
    low,
    x_stride,
    entry_token,
    entry_term,
    factor_token,
    factor_term,
    most,
    IN: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """low[token, term] = factor * a x, some ranks of one token's term a program."""
    token, term, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    entry = entries + token * entry_token + term * entry_term
    # What depends on nothing is loaded together, before what depends on it.
    rank = tl.load(entry + 5).to(tl.int32)
    a = tl.load(entry).to(tl.pointer_type(x.dtype.element_ty))
    factor = tl.load(factors + token * factor_token + term * factor_term)
    ranks = block * BLOCK_RANK + tl.arange(0, BLOCK_RANK)
    if block * BLOCK_RANK < rank:
        source = x + token * x_stride
        sums = tl.zeros([BLOCK_RANK, BLOCK_IN], dtype=tl.float32)
        for start in range(0, IN, BLOCK_IN):
            columns = start + tl.arange(0, BLOCK_IN)
            inside = columns < IN
            values = tl.load(source + columns, mask=inside, other=0.0).to(tl.float32)
            matrix = tl.load(
                a + ranks[:, None] * IN + columns[None, :],
                mask=(ranks < rank)[:, None] & inside[None, :],
                other=0.0,
            )
            sums += matrix.to(tl.float32) * values[None, :]
        result = tl.sum(sums, axis=1) * factor
        tl.store(low + (token * TERMS + term) * most + ranks, result, mask=ranks < rank)


@triton.jit(do_not_specialize=_ANY)
def _expand(
    y,
    entries,
    factors,
    low,
    y_stride,
    entry_token,
    entry_term,
    factor_token,
    factor_term,
    most,
    OUT: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """y[token] += the terms' updates, some outputs of one token a program."""
    token = tl.program_id(0).to(tl.int64)
    outputs = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = outputs < OUT
    kind = tl.pointer_type(y.dtype.element_ty)
    target = y + token * y_stride + outputs
    before = tl.load(target, mask=inside, other=0.0).to(tl.float32)
    total = before
    for term in tl.static_range(TERMS):
        entry = entries + token * entry_token + term * entry_term
        b = tl.load(entry + 1).to(kind)
        bias = tl.load(entry + 2)
        gains = tl.load(entry + 3)
        base_bias = tl.load(entry + 4)
        rank = tl.load(entry + 5).to(tl.int32)
        weight = tl.load(factors + token * factor_token + term * factor_term + 1)
        added = tl.zeros([BLOCK_OUT], dtype=tl.float32)
        for start in range(0, rank, BLOCK_RANK):
            ranks = start + tl.arange(0, BLOCK_RANK)
            values = tl.load(low + (token * TERMS + term) * most + ranks, mask=ranks < rank, other=0.0)
            matrix = tl.load(
                b + outputs[:, None] * rank + ranks[None, :],
                mask=inside[:, None] & (ranks < rank)[None, :],
                other=0.0,
            )
            added += tl.sum(matrix.to(tl.float32) * values[None, :], axis=1)
        if bias != 0:
            added += weight * tl.load(bias.to(kind) + outputs, mask=inside, other=0.0).to(tl.float32)
        if gains != 0:
            gain = tl.load(gains.to(kind) + outputs, mask=inside, other=0.0).to(tl.float32)
            weighted = before
            if base_bias != 0:
                weighted -= tl.load(base_bias.to(kind) + outputs, mask=inside, other=0.0).to(tl.float32)
            added = gain * added + weight * (gain - 1.0) * weighted
        total += added
    tl.store(target, total.to(y.dtype.element_ty), mask=inside)
