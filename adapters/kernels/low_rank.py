"""What adapters add to the outputs of modules with one input, for tokens that each use another adapter: two launches.

A token names its adapter's matrices by their addresses, so nothing is copied or padded, ranks differ freely, and a captured
CUDA graph serves other adapters once the addresses have changed in place. A token without an adapter keeps its bits.

Serves LoRA with its bias, and DoRA. Does not keep the matrices alive, find addresses, or check that they hold what it is
told: `adapters.entries` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from adapthub.adapters.kernels.launching import on_its_device

# What a token is told of one update, in this order: addresses of a [r, in], b [out, r], bias [out] or 0, gain [out] or 0 and
# the base's bias [out] or 0 (both of DoRA), and r. Addresses are multiples of 16.
COLUMNS = A, B, BIAS, GAIN, BASE_BIAS, RANK = range(6)
# Factors beside them: of b (a x), and of everything else.
FACTORS = PRODUCT, WEIGHT = range(2)


SLICES = 3  # modules a launch


@on_its_device
def shrink(
    x: torch.Tensor, table: torch.Tensor, factors: torch.Tensor, places: Sequence[int], most: int
) -> torch.Tensor:
    """The first half of `expand_`, which wants x alone: float32 [slices, t, terms, most], of modules that all read x.

    x [t, in]; of every module, table int64 [t, terms, modules, 6] and factors float32 [t, terms, modules, 2], contiguous;
    `places` are up to `SLICES` of the modules, and no rank is above `most`.
    """
    tokens, terms, modules, _ = table.shape
    size = x.shape[1]
    low = torch.empty(len(places), tokens, terms, most, dtype=torch.float32, device=x.device)
    blocks = triton.cdiv(most, _SHRUNK)
    _shrink[(tokens, terms, blocks * len(places))](
        x,
        table,
        factors,
        low,
        x.stride(0),
        *padded(places),
        tokens,
        modules,
        most,
        blocks,
        IN=size,
        TERMS=terms,
        BLOCK_RANK=_SHRUNK,
        BLOCK_IN=min(512, triton.next_power_of_2(size)),
    )
    return low


@on_its_device
def expand_(
    ys: Sequence[torch.Tensor],
    low: torch.Tensor,
    table: torch.Tensor,
    factors: torch.Tensor,
    places: Sequence[int],
) -> None:
    """Add to token t of each module's y what the table says of that module, given `low` by `shrink`, and y as it was.

    ys [t, out] of x's dtype, which is that of all matrices; tokens and matrices contiguous. A rank of 0 without a gain or
    bias adds nothing. The terms' sum is rounded once.
    """
    _, tokens, terms, most = low.shape
    outs = [y.shape[1] for y in ys] + [0] * (SLICES - len(ys))
    block_out = min(128, triton.next_power_of_2(max(outs)))
    every = [*ys, *[ys[0]] * (SLICES - len(ys))]
    _expand[(tokens, sum(triton.cdiv(out, block_out) for out in outs))](
        *every,
        table,
        factors,
        low,
        *(y.stride(0) for y in every),
        *outs,
        *padded(places),
        tokens,
        table.shape[2],
        most,
        TERMS=terms,
        BLOCK_RANK=_EXPANDED,
        BLOCK_OUT=block_out,
        COUNT=len(ys),
    )


def padded(places: Sequence[int]) -> list[int]:
    """`SLICES` of them: those beyond are never read."""
    return [*places, *[places[0]] * (SLICES - len(places))]


# Ranks that a program computes, and reads at a time.
_SHRUNK, _EXPANDED = 4, 16
# Sizes and places that change from launch to launch: none is worth a kernel of its own.
_ANY = ["place0", "place1", "place2", "tokens", "modules", "most", "blocks"]


@triton.jit(do_not_specialize=_ANY)
def _shrink(
    x,
    table,
    factors,
    low,
    x_stride,
    place0,
    place1,
    place2,
    tokens,
    modules,
    most,
    blocks,
    IN: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """low[slice, token, term] = factor * a x, some ranks of one token's term of one module a program."""
    token, term = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slice_, block = tl.program_id(2) // blocks, tl.program_id(2) % blocks
    place = tl.where(slice_ == 0, place0, tl.where(slice_ == 1, place1, place2))
    told = (token * TERMS + term) * modules + place
    entry = table + told * 6
    # What depends on nothing is loaded together, before what depends on it.
    rank = tl.load(entry + 5).to(tl.int32)
    a = tl.multiple_of(tl.load(entry).to(tl.pointer_type(x.dtype.element_ty)), 16)
    factor = tl.load(factors + told * 2)
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
        tl.store(low + ((slice_ * tokens + token) * TERMS + term) * most + ranks, result, mask=ranks < rank)


@triton.jit
def module_of(tile, first, second, third, BLOCK_OUT: tl.constexpr, COUNT: tl.constexpr):
    """Of tiles over the outputs of `COUNT` modules, one behind the other: the tile in its module, that, and which it is."""
    y, y_stride, out, place = first
    slice_ = 0
    if COUNT > 1:
        y1, stride1, out1, place1 = second
        tiles = tl.cdiv(out, BLOCK_OUT)
        later = tile >= tiles
        tile = tl.where(later, tile - tiles, tile)
        y, y_stride = tl.where(later, y1, y), tl.where(later, stride1, y_stride)
        out, place = tl.where(later, out1, out), tl.where(later, place1, place)
        slice_ = tl.where(later, 1, 0)
        if COUNT > 2:
            y2, stride2, out2, place2 = third
            tiles = tl.cdiv(out1, BLOCK_OUT)
            last = later & (tile >= tiles)
            tile = tl.where(last, tile - tiles, tile)
            y, y_stride = tl.where(last, y2, y), tl.where(last, stride2, y_stride)
            out, place = tl.where(last, out2, out), tl.where(last, place2, place)
            slice_ = tl.where(last, 2, slice_)
    return tile, y, y_stride, out, place, slice_


@triton.jit(do_not_specialize=_ANY)
def _expand(
    y0,
    y1,
    y2,
    table,
    factors,
    low,
    stride0,
    stride1,
    stride2,
    out0,
    out1,
    out2,
    place0,
    place1,
    place2,
    tokens,
    modules,
    most,
    TERMS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    COUNT: tl.constexpr,
):
    """y[token] += the terms' updates, some outputs of one token of one module a program."""
    token = tl.program_id(0).to(tl.int64)
    tile, y, y_stride, out, place, slice_ = module_of(
        tl.program_id(1),
        (y0, stride0, out0, place0),
        (y1, stride1, out1, place1),
        (y2, stride2, out2, place2),
        BLOCK_OUT,
        COUNT,
    )
    outputs = tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = outputs < out
    kind = tl.pointer_type(y.dtype.element_ty)
    target = y + token * y_stride + outputs
    before = tl.load(target, mask=inside, other=0.0).to(tl.float32)
    total = before
    for term in tl.static_range(TERMS):
        told = (token * TERMS + term) * modules + place
        entry = table + told * 6
        b = tl.load(entry + 1).to(kind)
        bias = tl.load(entry + 2)
        gains = tl.load(entry + 3)
        base_bias = tl.load(entry + 4)
        rank = tl.load(entry + 5).to(tl.int32)
        weight = tl.load(factors + told * 2 + 1)
        added = tl.zeros([BLOCK_OUT], dtype=tl.float32)
        for start in range(0, rank, BLOCK_RANK):
            ranks = start + tl.arange(0, BLOCK_RANK)
            values = tl.load(
                low + ((slice_ * tokens + token) * TERMS + term) * most + ranks, mask=ranks < rank, other=0.0
            )
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
