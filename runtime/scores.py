"""Attention's arithmetic for one layer of a paged pass: rows over keys and values that lie in several places.

Knows rows, slots and tensors; not pages' holders, requests or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from torch.nn import functional as F

from adapthub.runtime.paged_rows import Batch

# Queries whose scores exist at one time where scaled_dot_product_attention cannot be used.
_BLOCK = 64


def attend(
    batch: Batch,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Write the pass's keys and values, then attend: query [1, heads, T, d] -> [T, heads, dv]. Within inference mode.

    key [1, kv heads, T, d], value [1, kv heads, T, dv]; a query sees keys less than `window` back, scores are capped as
    softcap * tanh(score / softcap), `sinks` [heads] take part in the softmax and have no value.
    """
    keys, values = batch.kv.keys[layer], batch.kv.values[layer]
    keys.index_copy_(1, batch.slots, key[0])
    values.index_copy_(1, batch.slots, value[0])
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    if softcap is not None or sinks is not None:
        _attend_by_definition(batch, layer, query, output, scale, window, softcap, sinks)
    else:
        _attend_in_chunks(batch, layer, query, output, scale, window, (key, value))
    if batch.steps and batch.in_place:
        _attend_in_place(batch, layer, query, output, scale, window, softcap, sinks)
    elif batch.steps:
        slots, mask = batch.gathered(window, query)
        q = query[0].transpose(0, 1)[batch.step_places]  # [steps, heads, d]
        k, v = (pool[:, slots].transpose(0, 1) for pool in (keys, values))
        if softcap is None and sinks is None:
            rows = _fused(q.unflatten(1, (len(keys), -1)), k, v, scale, mask).flatten(1, 2)
        else:
            rows = weigh(q[:, :, None], [k], [v], scale, mask[:, None], softcap, sinks)[:, :, 0]
        output[batch.step_places] = rows
    return output


def _attend_in_place(
    batch: Batch,
    layer: int,
    query: torch.Tensor,
    output: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> None:
    """All rows with one token, in a few calls, over their keys and values where they are.

    Scores are a product computed only where a row sees a key; the values' weighted sum is a lookup of embeddings. Both read
    what is asked for and nothing else, whatever the rows' lengths and wherever their pages lie.
    """
    keys, values = batch.kv.keys[layer], batch.kv.values[layer]
    seen = batch.step_keys(query.shape[1], len(keys), window)
    q = query[0].transpose(0, 1).index_select(0, batch.step_places).flatten(0, 1)
    torch.sparse.sampled_addmm(seen.matrix, q, keys.flatten(0, 1).T, alpha=scale, beta=0.0, out=seen.matrix)
    if softcap is not None:
        seen.scores.div_(softcap).tanh_().mul_(softcap)
    for block in seen.blocks:
        if sinks is None:
            torch.softmax(block, -1, out=block)
        else:  # a score that takes part in the sum and has no value (gpt-oss)
            kept = torch.sigmoid(block.logsumexp(-1) - sinks.to(block.dtype))
            torch.softmax(block, -1, out=block).mul_(kept[:, None])
    rows = F.embedding_bag(
        seen.columns, values.flatten(0, 1), seen.starts, mode="sum", per_sample_weights=seen.scores
    )
    output.index_copy_(0, batch.step_places, rows.unflatten(0, (len(batch.steps), -1)))


def _attend_in_chunks(
    batch: Batch,
    layer: int,
    query: torch.Tensor,
    output: torch.Tensor,
    scale: float,
    window: int | None,
    new: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Rows with several tokens, each by torch's own attention; `new` is the pass's own keys and values."""
    for row in batch.chunks:
        places = slice(row.start, row.start + row.new)
        if row.past == 0 and (window is None or row.new <= window):  # all its keys are in this pass
            k, v = (tensor[0, :, places] for tensor in new)
            mask = None
        else:
            first, last = row.first(window), row.past + row.new
            k, v = (
                _joined(row.parts(pools[layer], first, last), 1) for pools in (batch.kv.keys, batch.kv.values)
            )
            mask = batch.mask(row, 0, row.new, window, query)
        # A kv head and its group are a batch and its heads, whose keys are one and the same memory.
        q = query[0, :, places].unflatten(0, (len(k), -1))
        k, v = (tensor[:, None].expand(-1, q.shape[1], -1, -1) for tensor in (k, v))
        output[places] = _fused(q, k, v, scale, mask).flatten(0, 1).transpose(0, 1)


def _attend_by_definition(
    batch: Batch,
    layer: int,
    query: torch.Tensor,
    output: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> None:
    """Rows with several tokens, where torch's own attention lacks something; blocks of queries bound the scores' memory."""
    for row in batch.chunks:
        first = row.first(window)
        for low in range(0, row.new, _BLOCK):
            high = min(low + _BLOCK, row.new)
            places = slice(row.start + low, row.start + high)
            k, v = (
                row.parts(pools[layer], first, row.past + high) for pools in (batch.kv.keys, batch.kv.values)
            )
            mask = batch.mask(row, low, high, window, query)
            rows = weigh(query[0, :, places], k, v, scale, mask, softcap, sinks)
            output[places] = rows.transpose(0, 1)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None
) -> torch.Tensor:
    """torch's own attention, where nothing but a mask [..., n, S] is added to the scores.

    query [B, h, n, d], key [B, h, S, d], value [B, h, S, dv] -> [B, h, n, dv]. Without a mask: causal over queries and keys
    of one length, or one query that sees all keys.
    """
    causal = mask is None and query.shape[2] > 1
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, is_causal=causal)


def weigh(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    scale: float,
    mask: torch.Tensor | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention by its definition, over keys and values in parts that need not be neighbours: none is copied.

    query [..., heads, n, d], keys [..., kv heads, S_i, d], values [..., kv heads, S_i, dv], sinks [heads], mask added to the
    scores [..., n, S] -> [..., heads, n, dv]. Queries of one kv head's group are rows of one product.
    """
    *outer, heads, n, size = query.shape
    kv_heads = keys[0].shape[-3]
    grouped = (query * scale).reshape(*outer, kv_heads, heads // kv_heads * n, size)
    scores = _joined([grouped @ k.transpose(-1, -2) for k in keys], dim=-1).unflatten(-2, (-1, n))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:  # a score that takes part in the sum and has no value (gpt-oss)
        sink = sinks.to(scores.dtype).view(kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype).flatten(-3, -2)
    ends = list(accumulate(v.shape[-2] for v in values))
    output = weights[..., : ends[0]] @ values[0]
    for start, stop, v in zip(ends[:-1], ends[1:], values[1:], strict=True):
        output = output + weights[..., start:stop] @ v
    return cast(torch.Tensor, output.reshape(*outer, heads, n, -1))


def _joined(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """Parts as one tensor; a single part as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)
