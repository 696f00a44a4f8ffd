"""A batch of rows of tokens as smaller ones, which a processor computes as fast and keeps less for. Computes none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adapthub.recipes.batches import IGNORED

PASS_TOKENS = 1024
"""Of a batch on a CPU, that are computed at once."""


def parts_of(batch: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
    """A batch of rows of tokens as smaller ones of at most PASS_TOKENS tokens, or one row, each padded as its own rows need
    and with a target: a processor computes them as fast, and keeps less for backward. Other batches are left whole."""
    if not of_tokens(batch):
        return [dict(batch)]
    mask = batch["attention_mask"]
    parts, start, tokens = [], 0, 0
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        if row > start and tokens + length > PASS_TOKENS:
            parts.append(_rows_of(batch, mask, start, row))
            start, tokens = row, 0
        tokens += length
    if not start:
        return [dict(batch)]
    parts.append(_rows_of(batch, mask, start, len(mask)))
    return [part for part in parts if (part["labels"] != IGNORED).any()] or [dict(batch)]


def cuts_up(device: torch.device, *, own_loss: bool) -> bool:
    """Whether one process that trains on `device` cuts batches up: where a part takes no longer for being small. A batch's
    loss, where it is not the recipe's own, is the mean of its targets', so that it can be the sum of its parts' shares."""
    return device.type == "cpu" and not own_loss


def of_tokens(batch: Mapping[str, torch.Tensor]) -> bool:
    """Whether a batch can be cut up: rows of tokens, with a mask of their padding and labels."""
    mask = batch.get("attention_mask")
    return mask is not None and mask.ndim == 2 and "input_ids" in batch and "labels" in batch


def _rows_of(batch: Mapping[str, torch.Tensor], mask: torch.Tensor, start: int, stop: int) -> dict[str, Any]:
    """Rows [start, stop), without the columns that are padding in all of them; a decoder's tokens have their own, and a
    text's labels (several at once: 0 and 1 as floats) may be as many as its tokens."""
    some = {name: tensor[start:stop] for name, tensor in batch.items()}
    used = mask[start:stop].any(dim=0).nonzero()
    columns = slice(int(used[0]), int(used[-1]) + 1)
    by_token: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    labels = batch["labels"]
    if "decoder_input_ids" not in batch and labels.shape == mask.shape and not labels.is_floating_point():
        by_token = (*by_token, "labels")
    return some | {name: some[name][:, columns].contiguous() for name in by_token if name in some}
