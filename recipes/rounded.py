"""Padded batches through a backbone at a few lengths only, so that passes come again and can be replayed (captured_layers).

A batch is padded behind its rows to the next of a few lengths within the backbone, and is as long as it was for everything
around it (heads, losses, metrics). No token of a causal base sees what stands behind it, so there it goes without a mask of
padding, in the attention that is fastest; others keep theirs. Does not order rows, or take padding out (unpadded does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from adapthub.recipes.unpadded import padded_passes, same_logits

if TYPE_CHECKING:
    from peft import PeftModel

_LENGTHS = 8
_MULTIPLE = 8  # of tokens: what matrix instructions take at a time
_BY_TOKEN = ("input_ids", "token_type_ids")


def lengths_to(longest: int, most: int) -> tuple[int, ...]:
    """About eighths of the longest row, and its own length, to which little is added, up to `most` tokens."""
    step = -(-longest // (_LENGTHS * _MULTIPLE)) * _MULTIPLE
    last = -(-longest // _MULTIPLE) * _MULTIPLE
    return (*range(step, longest, step), longest if last > most else last)


def mask_for(model: PeftModel, batch: Mapping[str, Tensor], most: int) -> bool | None:
    """Whether a base needs the mask of its padding, as the logits of `batch` say; None where it cannot be padded so.

    No row is made longer than `most` tokens, for which there are positions: of a batch that is as long some columns less
    are tried. To look for a position that is not there ends all use of a GPU in the process.
    """
    mask = batch.get("attention_mask")
    # An encoder-decoder's decoder has rows with lengths of their own.
    if mask is None or mask.ndim != 2 or model.config.is_encoder_decoder or most <= _MULTIPLE:
        return None
    width = min(mask.shape[1], most - _MULTIPLE)
    some = {
        name: tensor[:, :width] if tensor.shape == mask.shape else tensor for name, tensor in batch.items()
    }
    for masked in (False, True):
        if same_logits(model, some, partial(rounded, model, (width + _MULTIPLE,), masked=masked)):
            return masked
    return None


@contextmanager
def rounded(model: PeftModel, lengths: tuple[int, ...], *, masked: bool) -> Iterator[None]:
    """Within: the backbone of a task model computes batches of `lengths`, which ascend. `masked`: as of `mask_for`."""

    def run(backbone: nn.Module, plain: Any, inputs: dict[str, Any]) -> Any:
        if any(inputs.get(name) is not None for name in ("past_key_values", "position_ids")):
            return plain(**inputs)
        mask = inputs["attention_mask"]
        width = mask.shape[1]
        more = next((length - width for length in lengths if length >= width), 0)
        for name in _BY_TOKEN:
            if inputs.get(name) is not None:
                inputs[name] = F.pad(inputs[name], (0, more))
        output = plain(**inputs | {"attention_mask": F.pad(mask, (0, more)) if masked else None})
        output.last_hidden_state = output.last_hidden_state[:, :width]
        return output

    with padded_passes(model, run):
        yield
