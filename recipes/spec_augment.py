"""SpecAugment (Park et al. 2019) of Wav2Vec2 and its kin, which in training mask spans of a recording as their configuration
says: of recordings that are long enough for it.

transformers masks at least `mask_time_min_masks` spans of `mask_time_length` positions of a recording, however short: all of
it, perhaps, and a batch of shorter ones is an error. Does not mask anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def spares_the_short(model: torch.nn.Module) -> Iterator[None]:
    """Within: recordings that the fewest spans could cover are heard whole; of the others `model` masks what it always did.
    Nothing changes for a model that masks no hidden states."""
    masking: list[Any] = [module for module in model.modules() if hasattr(module, "_mask_hidden_states")]
    for module in masking:
        module._mask_hidden_states = partial(_masked, module.config, module._mask_hidden_states)
    try:
        yield
    finally:
        for module in masking:
            del module._mask_hidden_states  # the class has it


def _masked(
    config: Any,
    mask: Callable[..., torch.Tensor],
    hidden_states: torch.Tensor,
    mask_time_indices: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """hidden_states: [rows, positions, hidden]; attention_mask: [rows, positions] or None."""
    rows, positions, _ = hidden_states.shape
    lengths = hidden_states.new_full((rows,), positions) if attention_mask is None else attention_mask.sum(-1)
    # Spans of no such number, but one may be drawn, and a batch with no room for it is an error.
    short = lengths <= max(1, config.mask_time_min_masks) * config.mask_time_length
    if short.all():
        return hidden_states
    masked = mask(hidden_states.clone(), mask_time_indices=mask_time_indices, attention_mask=attention_mask)
    return torch.where(short[:, None, None], hidden_states, masked)
