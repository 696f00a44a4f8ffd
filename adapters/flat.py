"""Many rows as one: a flattened [1, T] pass through a transformers model, without padding, each row attending to itself.

Registers an attention function, `adapthub_flat`, with transformers. Inside `flat_batch(...)` it attends row by row over
the flattened tokens, each row first over its own prefix if it has one; outside it is transformers' own SDPA, so a model
set to it behaves as before everywhere else. Linear layers and norms see T real tokens and no padding.

Works for families that take `position_ids` and go through transformers' attention interface; `exact_offset` finds out
by running two rows both ways. Does not know adapters, heads or sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "adapthub_flat"
# Changes to plain attention that some families ask for by keyword and that this function does not compute.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class Prefix:
    """A prefix adapter's keys and values: one [2, kv heads, prefix length, head size] tensor a layer."""

    layers: tuple[torch.Tensor, ...]

    @property
    def length(self) -> int:
        """The prefix length: virtual tokens before the first real one."""
        return int(self.layers[0].shape[2])


@dataclass(frozen=True)
class _Rows:
    lengths: tuple[int, ...]
    prefixes: tuple[Prefix | None, ...]

    @cached_property
    def runs(self) -> list[tuple[int, Prefix | None, int]]:
        """Rows that attend in one call: length, prefix, and how many of that length stand together; with a prefix, one."""
        runs: list[tuple[int, Prefix | None, int]] = []
        for length, prefix in zip(self.lengths, self.prefixes, strict=True):
            if runs and prefix is None and runs[-1][:2] == (length, None):
                runs[-1] = (length, None, runs[-1][2] + 1)
            else:
                runs.append((length, prefix, 1))
        return runs


_ROWS: ContextVar[_Rows | None] = ContextVar("adapthub_flat_rows", default=None)


class NotFlat(Exception):
    """This family's attention has something that the flattened pass does not compute."""


@contextmanager
def flat_batch(lengths: Sequence[int], prefixes: Sequence[Prefix | None]) -> Iterator[None]:
    """Within: models set to `adapthub_flat` read their [1, T] input as rows of `lengths` with `prefixes`."""
    with _reading(_Rows(tuple(lengths), tuple(prefixes))):
        yield


def reads_rows() -> bool:
    """Whether this is within `flat_batch`."""
    return _ROWS.get() is not None


def same_rows() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For a pass now, and for the same again later, perhaps on another thread (torch.utils.checkpoint's context_fn): rows
    are then as they are now."""
    return nullcontext(), _reading(_ROWS.get())


@contextmanager
def _reading(rows: _Rows | None) -> Iterator[None]:
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


def positions(lengths: Sequence[int], prefixes: Sequence[Prefix | None], offset: int) -> torch.Tensor:
    """Position ids [1, T]: each row counts from `offset`, or from behind its prefix."""
    starts = [offset + (prefix.length if prefix else 0) for prefix in prefixes]
    return torch.cat([torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])[None]


def exact_offset(model: PreTrainedModel, vocabulary: int) -> int | None:
    """The position offset with which a flattened pass equals a padded one on two rows; None where none does.

    RoBERTa-type families count positions from behind the padding index, others from 0. Leaves the model set to
    `adapthub_flat` if a flattened pass is exact, as it was otherwise.
    """
    rows = [[(7 * i + 5) % vocabulary or 1 for i in range(n)] for n in (3, 6)]
    pad = getattr(model.config, "pad_token_id", None)
    rows = [[(i + 1) % vocabulary if i == pad else i for i in row] for row in rows]
    before = model.config._attn_implementation
    with torch.inference_mode():
        expected = [model(input_ids=torch.tensor([row], device=model.device))[0][0] for row in rows]
        try:
            offset = _offset(model, rows[-1], expected[-1], pad)
            model.set_attn_implementation(ATTENTION)
            parts = _flat_pass(model, rows, offset).split([len(row) for row in rows])
            if all(_close(ours, theirs) for ours, theirs in zip(parts, expected, strict=True)):
                return offset
        except (NotFlat, TypeError, ValueError, IndexError):
            pass
    model.set_attn_implementation(before)
    return None


def _offset(model: PreTrainedModel, row: Sequence[int], expected: torch.Tensor, pad: int | None) -> int:
    """Where the model itself counts from: told positions, it computes the same thing in the same way.

    So the right offset leaves no difference, or far less than a wrong one, in any dtype; a tolerance would not do, as
    some models' hidden states hardly move with positions.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    if pad is None or longest is None or pad + 1 + len(row) > longest:
        return 0
    ids = torch.tensor([row], device=model.device)
    errors = [
        float((model(input_ids=ids, position_ids=places.to(model.device))[0][0] - expected).float().norm())
        for places in (positions([len(row)], [None], offset) for offset in (0, pad + 1))
    ]
    return 0 if errors[0] <= 10 * errors[1] else pad + 1


def _flat_pass(model: PreTrainedModel, rows: Sequence[Sequence[int]], offset: int) -> torch.Tensor:
    lengths = [len(row) for row in rows]
    none = [None] * len(rows)
    with flat_batch(lengths, none):
        output = model(
            input_ids=torch.tensor([[token for row in rows for token in row]], device=model.device),
            position_ids=positions(lengths, none, offset).to(model.device),
        )
    return cast(torch.Tensor, output[0][0])


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    # Another attention, position or mask moves a hidden state by about its own length; rounding does not.
    tolerance = 1e-4 if theirs.dtype == torch.float32 else 0.1
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, T, d], key and value [1, kv heads, T, d] -> [1, T, heads, d]."""
    rows = _ROWS.get()
    if rows is None:
        result = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            is_causal=is_causal,
            **other,
        )
        return cast(tuple[torch.Tensor, None], result)
    if asked := [name for name in _UNSUPPORTED if other.get(name) is not None]:
        raise NotFlat(f"attention with {', '.join(asked)}")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    outputs = []
    start = 0
    for length, prefix, count in rows.runs:
        stop = start + count * length
        q, k, v = (_by_row(t[:, :, start:stop], count) for t in (query, key, value))
        start = stop
        if prefix is not None:
            layer = prefix.layers[cast(int, module.layer_idx)]
            k, v = torch.cat([layer[0][None], k], dim=2), torch.cat([layer[1][None], v], dim=2)
        mask = _mask(length, prefix.length if prefix else 0, causal, sliding_window, query.device)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=causal and mask is None and length > 1,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outputs.append(attended.transpose(0, 1).flatten(1, 2)[None])
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _by_row(flat: torch.Tensor, count: int) -> torch.Tensor:
    """[1, heads, count * length, d] -> [count, heads, length, d]"""
    rows: torch.Tensor = flat[0].unflatten(1, (count, -1))
    return rows.transpose(0, 1)


def _mask(
    length: int, prefix: int, causal: bool, window: int | None, device: torch.device
) -> torch.Tensor | None:
    """[length, prefix + length] booleans, or None where plain (causal) attention needs no mask."""
    windowed = window is not None and prefix + length > window
    if not windowed and (not causal or prefix == 0 or length == 1):
        return None
    ahead = (
        torch.arange(prefix + length, device=device)[None]
        - torch.arange(prefix, prefix + length, device=device)[:, None]
    )
    allowed = ahead <= 0 if causal else torch.ones_like(ahead, dtype=torch.bool)
    if windowed:
        assert window is not None
        allowed &= ahead.abs() < window
    return allowed


def _attention_mask(*args: Any, **kwargs: Any) -> Any:
    return None if _ROWS.get() is not None else ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _attention_mask)
