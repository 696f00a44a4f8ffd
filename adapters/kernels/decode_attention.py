"""Attention of single tokens, decoding or of a prompt, over keys and values anywhere in a pool: two launches a layer.

Each token's keys are cut into parts that programs of their own read, and the parts are put together by their sums of
exponentials (Dao et al. 2023, Flash-Decoding). Lengths and slots are read on the device, so a captured CUDA graph
serves other rows once those have changed in place.

Does not write keys, or choose slots.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from adapthub.adapters.kernels.launching import on_its_device

_BLOCK = 64  # keys that a program reads at a time
_PROGRAMS = 512  # enough to keep every GPU busy; parts are cut for so many
_MOST_PARTS = 16


@on_its_device
def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lanes: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """query [n, heads, d], keys [kv heads, slots, d], values [kv heads, slots, dv] -> [n, heads, dv].

    Row i sees the last `window` (or all) of the keys in slots table[lanes[i], :lengths[i]]; table int32 [lanes, width],
    lanes and lengths int64 [n], no length 0. Scores are capped as softcap * tanh(score / softcap); `sinks`
    [heads], contiguous, are scores that take part in the softmax and have no value. Sums are float32; strides
    of the last dimensions are 1.
    """
    rows, heads, size = query.shape
    kv_heads, value_size = len(keys), values.shape[-1]
    # A power of two: every number of parts is a kernel of its own to compile.
    parts = 1 << max(1, min(_MOST_PARTS, _PROGRAMS // (rows * kv_heads))).bit_length() - 1
    sums = query.new_empty(rows, heads, parts, value_size, dtype=torch.float32)
    stats = query.new_empty(2, rows, heads, parts, dtype=torch.float32)
    output = query.new_empty(rows, heads, value_size)
    group = heads // kv_heads
    _attend[(rows, kv_heads, parts)](
        query,
        keys,
        values,
        table,
        lanes,
        lengths,
        sums,
        stats,
        scale,
        softcap or 0.0,
        query.stride(0),
        query.stride(1),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        table.stride(0),
        rows * heads * parts,
        WINDOW=window or 0,
        CAPPED=softcap is not None,
        HEADS=heads,
        GROUP=group,
        PARTS=parts,
        SIZE=size,
        VALUE_SIZE=value_size,
        BLOCK_GROUP=max(16, triton.next_power_of_2(group)),
        BLOCK=_BLOCK,
        BLOCK_SIZE=max(16, triton.next_power_of_2(size)),
        BLOCK_VALUE=max(16, triton.next_power_of_2(value_size)),
    )
    _join[(rows * heads,)](
        sums,
        stats,
        output,
        output if sinks is None else sinks,
        rows * heads * parts,
        SINKS=sinks is not None,
        HEADS=heads,
        PARTS=parts,
        BLOCK_PARTS=triton.next_power_of_2(parts),
        VALUE_SIZE=value_size,
        BLOCK_VALUE=triton.next_power_of_2(value_size),
    )
    return output


@triton.jit(do_not_specialize=["stats_size"])
def _attend(
    query,
    keys,
    values,
    table,
    lanes,
    lengths,
    sums,
    stats,
    scale,
    softcap,
    query_row,
    query_head,
    keys_head,
    keys_slot,
    values_head,
    values_slot,
    table_lane,
    stats_size,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
):
    """One part of one row's keys, for the heads that share a kv head."""
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    blocks = tl.cdiv(tl.cdiv(length - first, BLOCK), PARTS)
    start = first + part * blocks * BLOCK
    stop = tl.minimum(start + blocks * BLOCK, length)

    group = tl.arange(0, BLOCK_GROUP)
    sizes, value_sizes = tl.arange(0, BLOCK_SIZE), tl.arange(0, BLOCK_VALUE)
    heads = kv_head * GROUP + group
    in_group, in_size, in_value = group < GROUP, sizes < SIZE, value_sizes < VALUE_SIZE
    q = tl.load(
        query + row.to(tl.int64) * query_row + heads[:, None] * query_head + sizes[None, :],
        mask=in_group[:, None] & in_size[None, :],
        other=0.0,
    )
    slots_of = table + tl.load(lanes + row) * table_lane
    highest = tl.full([BLOCK_GROUP], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_GROUP], dtype=tl.float32)
    output = tl.zeros([BLOCK_GROUP, BLOCK_VALUE], dtype=tl.float32)
    for begin in range(start, stop, BLOCK):
        places = begin + tl.arange(0, BLOCK)
        seen = places < stop
        slots = tl.load(slots_of + places, mask=seen, other=0).to(tl.int64)
        key = tl.load(
            keys + kv_head.to(tl.int64) * keys_head + slots[:, None] * keys_slot + sizes[None, :],
            mask=seen[:, None] & in_size[None, :],
            other=0.0,
        )
        scores = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        if CAPPED:
            shrunk = tl.exp(-2.0 * tl.abs(scores) / softcap)  # tanh; by way of a sigmoid it loses more
            capped = softcap * (1.0 - shrunk) / (1.0 + shrunk)
            scores = tl.where(scores < 0, -capped, capped)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        kept = tl.exp(highest - higher)
        value = tl.load(
            values + kv_head.to(tl.int64) * values_head + slots[:, None] * values_slot + value_sizes[None, :],
            mask=seen[:, None] & in_value[None, :],
            other=0.0,
        )
        output = output * kept[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        total = total * kept + tl.sum(weights, axis=1)
        highest = higher

    place = (row * HEADS + heads).to(tl.int64) * PARTS + part
    tl.store(stats + place, highest, mask=in_group)
    tl.store(stats + stats_size + place, total, mask=in_group)
    tl.store(
        sums + place[:, None] * VALUE_SIZE + value_sizes[None, :],
        output,
        mask=in_group[:, None] & in_value[None, :],
    )


@triton.jit(do_not_specialize=["stats_size"])
def _join(
    sums,
    stats,
    output,
    sinks,
    stats_size,
    SINKS: tl.constexpr,
    HEADS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
):
    """A head's parts, weighed by what each is of the softmax's sum; empty parts have none of it."""
    head = tl.program_id(0).to(tl.int64)
    parts, sizes = tl.arange(0, BLOCK_PARTS), tl.arange(0, BLOCK_VALUE)
    there, inside = parts < PARTS, sizes < VALUE_SIZE
    highest = tl.load(stats + head * PARTS + parts, mask=there, other=float("-inf"))
    totals = tl.load(stats + stats_size + head * PARTS + parts, mask=there, other=0.0)
    top = tl.max(highest, axis=0)
    total = 0.0
    if SINKS:
        sink = tl.load(sinks + head % HEADS).to(tl.float32)
        top = tl.maximum(top, sink)
        total = tl.exp(sink - top)
    weights = tl.exp(highest - top)
    total += tl.sum(totals * weights, axis=0)
    rows = tl.load(
        sums + (head * PARTS + parts)[:, None] * VALUE_SIZE + sizes[None, :],
        mask=there[:, None] & inside[None, :],
        other=0.0,
    )
    result = tl.sum(rows * weights[:, None], axis=0) / total
    tl.store(output + head * VALUE_SIZE + sizes, result.to(output.dtype.element_ty), mask=inside)
