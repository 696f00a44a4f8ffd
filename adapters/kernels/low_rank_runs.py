"""What adapters add to runs of tokens under the same ones, and the gradients of it: matrices are read once for some tokens.

A run is up to `tile` tokens that follow each other and have one row's adapters, so each of its products is one of matrix
units. Rows name matrices by their addresses, as in `low_rank`; which runs there are lies in a tensor too, and one without
tokens ends at once: a captured CUDA graph serves other runs and adapters once both have changed in place. Products multiply
in the tokens' dtype, sums are float32. A token outside every run keeps its bits.

Backward, both halves read the other matrix of each pair, transposed where it lies, and `gradients` sums over all tokens of
an adapter: in an order that the batch alone decides. Does not keep matrices alive, or find addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from adapthub.adapters.kernels.launching import on_its_device
from adapthub.adapters.kernels.low_rank import SLICES, module_of, padded

_BLOCK_OUT = 128  # outputs that a program makes
# Inputs or outputs of a matrix whose gradients a program makes, and tokens that it reads at a time.
_SUMMED = 64
_ANY = ["place0", "place1", "place2", "tokens", "modules", "most", "blocks", "runs_stride"]


@on_its_device
def shrink(
    x: torch.Tensor,
    table: torch.Tensor,
    factors: torch.Tensor,
    runs: torch.Tensor,
    places: Sequence[int],
    most: int,
    tile: int,
    *,
    backward: bool = False,
) -> torch.Tensor:
    """The first half of `expand_`, which wants x alone: float32 [slices, t, terms, most], of modules that all read x.

    x [t, in], tokens contiguous; table int64 [rows, terms, modules, 6], factors float32 [rows, terms, modules, 2], as in
    `low_rank`; runs int64 [3, n], rows contiguous: of each its row, first token and tokens, none above `tile`; `places`
    are up to `SLICES` of the modules, and no rank is above `most`. Backward x is a gradient [t, out], a is b [out, r], and
    the matrix that is applied is its transpose. What is beyond a rank or outside the runs is not written.
    """
    _, terms, modules, _ = table.shape
    tokens, size = x.shape
    low = torch.empty(len(places), tokens, terms, most, dtype=torch.float32, device=x.device)
    ranks = _ranks(most)
    blocks = triton.cdiv(most, ranks)
    _shrink[(runs.shape[1], terms, blocks * len(places))](
        x,
        table,
        factors,
        runs,
        low,
        x.stride(0),
        runs.stride(0),
        *padded(places),
        tokens,
        modules,
        most,
        blocks,
        IN=size,
        TERMS=terms,
        ROWS=tile,
        BLOCK_RANK=ranks,
        BLOCK_IN=64 if tile * ranks > 2048 else 128,
        BACKWARD=backward,
        INTERPRETED=x.device.type == "cpu",
    )
    return low


@on_its_device
def expand_(
    ys: Sequence[torch.Tensor],
    low: torch.Tensor,
    table: torch.Tensor,
    factors: torch.Tensor,
    runs: torch.Tensor,
    places: Sequence[int],
    tile: int,
    *,
    backward: bool = False,
) -> None:
    """Add to the tokens of each run what the table says of its row, given `low` by `shrink`, and y as it was.

    ys [t, out] of the matrices' dtype, tokens contiguous. The terms' sum is rounded once. Backward y is the gradient of
    inputs [t, in], and b is a [r, in].
    """
    _, tokens, terms, most = low.shape
    outs = [y.shape[1] for y in ys] + [0] * (SLICES - len(ys))
    every = [*ys, *[ys[0]] * (SLICES - len(ys))]
    _expand[(runs.shape[1], sum(triton.cdiv(out, _BLOCK_OUT) for out in outs))](
        *every,
        table,
        factors,
        runs,
        low,
        *(y.stride(0) for y in every),
        *outs,
        runs.stride(0),
        *padded(places),
        tokens,
        table.shape[2],
        most,
        TERMS=terms,
        ROWS=tile,
        BLOCK_RANK=16,
        BLOCK_OUT=_BLOCK_OUT,
        COUNT=len(ys),
        BACKWARD=backward,
        INTERPRETED=low.device.type == "cpu",
        num_warps=4 if tile <= 32 else 8,  # four spill registers over 64 tokens, as compiled for 9.0
    )


@on_its_device
def gradients(
    low: torch.Tensor,
    wide: torch.Tensor,
    segments: torch.Tensor,
    starts: torch.Tensor,
    flat: torch.Tensor,
    *,
    of_b: bool,
) -> None:
    """Of one matrix of each adapter: the sums over its tokens of `low` [t, most] times `wide` [t, size].

    segments int64 [3, adapters], rows contiguous: of each its first token, tokens and rank; `starts` int64 [adapters] is
    where its gradient begins in `flat`: of a [r, size], or, with `of_b`, of b [size, r].
    """
    most = low.shape[1]
    ranks = _ranks(most)
    _gradients[(segments.shape[1], triton.cdiv(wide.shape[1], _SUMMED), triton.cdiv(most, ranks))](
        low,
        wide,
        segments,
        starts,
        flat,
        wide.stride(0),
        segments.stride(0),
        wide.shape[1],
        most,
        ROWS=_SUMMED,
        BLOCK_RANK=ranks,
        BLOCK_SIZE=_SUMMED,
        OF_B=of_b,
        INTERPRETED=low.device.type == "cpu",
    )


def _ranks(most: int) -> int:
    """Ranks that a program computes at a time."""
    ranks: int = min(64, max(16, triton.next_power_of_2(most)))
    return ranks


@triton.jit
def _plus(sums, left, right, INTERPRETED: tl.constexpr):
    """sums + left right, in the dtype of the right one; Triton's interpreter has no products of bfloat16."""
    if INTERPRETED:
        result = tl.dot(left.to(tl.float32), right.to(tl.float32), sums, input_precision="ieee")
    else:
        result = tl.dot(left.to(right.dtype), right, sums, input_precision="ieee")
    return result


@triton.jit
def _places(ranks, others, rank, size, OF_B: tl.constexpr):
    """Where elements are of b [size, rank], or of a [rank, size]."""
    return others * rank + ranks if OF_B else ranks * size + others


@triton.jit(do_not_specialize=_ANY)
def _shrink(
    x,
    table,
    factors,
    runs,
    low,
    x_stride,
    runs_stride,
    place0,
    place1,
    place2,
    tokens,
    modules,
    most,
    blocks,
    IN: tl.constexpr,
    TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BACKWARD: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """low[slice, tokens, term] = factor * x a^T, some ranks of one run's term of one module a program."""
    run, term = tl.program_id(0), tl.program_id(1)
    slice_, block = tl.program_id(2) // blocks, tl.program_id(2) % blocks
    place = tl.where(slice_ == 0, place0, tl.where(slice_ == 1, place1, place2))
    count = tl.load(runs + 2 * runs_stride + run)
    told = (tl.load(runs + run) * TERMS + term) * modules + place
    rank = tl.load(table + told * 6 + 5).to(tl.int32)
    if (count > 0) & (block * BLOCK_RANK < rank):
        a = tl.multiple_of(tl.load(table + told * 6).to(tl.pointer_type(x.dtype.element_ty)), 16)
        factor = tl.load(factors + told * 2)
        token = tl.load(runs + runs_stride + run) + tl.arange(0, ROWS)
        there = tl.arange(0, ROWS) < count
        ranks = block * BLOCK_RANK + tl.arange(0, BLOCK_RANK)
        sums = tl.zeros([ROWS, BLOCK_RANK], dtype=tl.float32)
        for start in range(0, IN, BLOCK_IN):
            columns = start + tl.arange(0, BLOCK_IN)
            inside = columns < IN
            values = tl.load(
                x + token[:, None] * x_stride + columns[None, :],
                mask=there[:, None] & inside[None, :],
                other=0.0,
            )
            at = _places(ranks[None, :], columns[:, None], rank, IN, BACKWARD)
            matrix = tl.load(a + at, mask=(ranks < rank)[None, :] & inside[:, None], other=0.0)
            sums = _plus(sums, values, matrix, INTERPRETED)
        line = low + ((slice_ * tokens + token) * TERMS + term) * most
        tl.store(line[:, None] + ranks[None, :], sums * factor, mask=there[:, None] & (ranks < rank)[None, :])


@triton.jit(do_not_specialize=_ANY)
def _expand(
    y0,
    y1,
    y2,
    table,
    factors,
    runs,
    low,
    stride0,
    stride1,
    stride2,
    out0,
    out1,
    out2,
    runs_stride,
    place0,
    place1,
    place2,
    tokens,
    modules,
    most,
    TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    COUNT: tl.constexpr,
    BACKWARD: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """y[tokens] += the terms' updates, some outputs of one run of one module a program."""
    run = tl.program_id(0)
    tile, y, y_stride, out, place, slice_ = module_of(
        tl.program_id(1),
        (y0, stride0, out0, place0),
        (y1, stride1, out1, place1),
        (y2, stride2, out2, place2),
        BLOCK_OUT,
        COUNT,
    )
    count = tl.load(runs + 2 * runs_stride + run)
    if count > 0:
        row = tl.load(runs + run)
        token = tl.load(runs + runs_stride + run) + tl.arange(0, ROWS)
        there = tl.arange(0, ROWS) < count
        outputs = tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        inside = outputs < out
        whole = there[:, None] & inside[None, :]
        kind = tl.pointer_type(y.dtype.element_ty)
        target = y + token[:, None] * y_stride + outputs[None, :]
        before = tl.load(target, mask=whole, other=0.0).to(tl.float32)
        total = before
        for term in tl.static_range(TERMS):
            told = (row * TERMS + term) * modules + place
            entry = table + told * 6
            b = tl.multiple_of(tl.load(entry + 1).to(kind), 16)
            bias = tl.load(entry + 2)
            gains = tl.load(entry + 3)
            base_bias = tl.load(entry + 4)
            rank = tl.load(entry + 5).to(tl.int32)
            weight = tl.load(factors + told * 2 + 1)
            line = low + ((slice_ * tokens + token) * TERMS + term) * most
            added = tl.zeros([ROWS, BLOCK_OUT], dtype=tl.float32)
            for start in range(0, rank, BLOCK_RANK):
                ranks = start + tl.arange(0, BLOCK_RANK)
                known = (ranks < rank)[:, None]
                values = tl.load(
                    line[:, None] + ranks[None, :], mask=there[:, None] & (ranks < rank)[None, :], other=0.0
                )
                at = _places(ranks[:, None], outputs[None, :], rank, out, not BACKWARD)
                matrix = tl.load(b + at, mask=known & inside[None, :], other=0.0)
                added = _plus(added, values, matrix, INTERPRETED)
            if bias != 0:
                added += (
                    weight * tl.load(bias.to(kind) + outputs, mask=inside, other=0.0).to(tl.float32)[None, :]
                )
            if gains != 0:
                gain = tl.load(gains.to(kind) + outputs, mask=inside, other=0.0).to(tl.float32)[None, :]
                weighted = before
                if base_bias != 0:
                    weighted -= tl.load(base_bias.to(kind) + outputs, mask=inside, other=0.0).to(tl.float32)[
                        None, :
                    ]
                added = gain * added + weight * (gain - 1.0) * weighted
            total += added
        tl.store(target, total.to(y.dtype.element_ty), mask=whole)


@triton.jit(do_not_specialize=["segments_stride", "most"])
def _gradients(
    low,
    wide,
    segments,
    starts,
    flat,
    wide_stride,
    segments_stride,
    size,
    most,
    ROWS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    OF_B: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Some columns of one adapter's gradient, all of its tokens."""
    adapter = tl.program_id(0)
    first = tl.load(segments + adapter)
    count = tl.load(segments + segments_stride + adapter)
    rank = tl.load(segments + 2 * segments_stride + adapter)
    columns = tl.program_id(1) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    ranks = tl.program_id(2) * BLOCK_RANK + tl.arange(0, BLOCK_RANK)
    inside, known = columns < size, ranks < rank
    sums = tl.zeros([BLOCK_RANK, BLOCK_SIZE], dtype=tl.float32)
    for start in range(0, count, ROWS):
        token = first + start + tl.arange(0, ROWS)
        there = start + tl.arange(0, ROWS) < count
        values = tl.load(
            wide + token[:, None] * wide_stride + columns[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        narrow = tl.load(
            low + token[None, :] * most + ranks[:, None], mask=there[None, :] & known[:, None], other=0.0
        )
        sums = _plus(sums, narrow, values, INTERPRETED)
    begin = flat + tl.load(starts + adapter)
    place = _places(ranks[:, None], columns[None, :], rank, size, OF_B)
    tl.store(begin + place, sums.to(flat.dtype.element_ty), mask=known[:, None] & inside[None, :])
