"""Padded batches through a backbone without their padding: several rows as one, each attending to itself alone.

The batch stays padded for everything around the backbone (heads, losses, metrics); within it there are real tokens only,
[1, T], with positions from each row's own beginning (adapters.flat). So rows of unlike lengths cost what they hold, and no
row sees another. Does not order rows.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adapthub.adapters.flat import exact_offset, flat_batch, positions

if TYPE_CHECKING:
    from peft import PeftModel

    from adapthub.adapters.base import Base

# Another attention or position moves logits by their own size; rounding does not.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.1}
_HALVES = (torch.bfloat16, torch.float16)
_BY_TOKEN = ("input_ids", "token_type_ids")


def flat_offset(base: Base) -> int | None:
    """Where a row's positions begin in a flattened pass of this base; None where none is exact. Leaves a base for which one
    is exact set to adapters.flat's attention, as serving does."""
    takes = inspect.signature(base.backbone.forward).parameters
    if "position_ids" not in takes or base.model.config.is_encoder_decoder:
        return None
    base.backbone.eval()
    return exact_offset(base.backbone, base.model.config.get_text_config().vocab_size)


def runs_unpadded(model: PeftModel, offset: int, batch: Mapping[str, Tensor]) -> bool:
    """Whether the logits of `batch`, padded, are the same either way: of a task model not every part need be so."""
    return same_logits(model, batch, lambda: unpadded(model, offset))


def same_logits(
    model: PeftModel, batch: Mapping[str, Tensor], within: Callable[[], AbstractContextManager[None]]
) -> bool:
    """Whether the logits of a padded batch's tokens are the same within as without; not so for what is no text."""
    if (
        model.active_peft_config.is_prompt_learning
        or "input_ids" not in batch
        or "attention_mask" not in batch
    ):
        return False
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    training = model.training
    # A base of fewer bits has a head of float32, and adapters: the numbers meet as where it is trained.
    dtype = min((p.dtype for p in model.parameters() if p.is_floating_point()), key=lambda one: one.itemsize)
    kind = batch["input_ids"].device.type
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(kind, dtype, enabled=dtype in _HALVES, cache_enabled=False),
        ):
            padded = model(**inputs).logits.float()
            with within():
                changed = model(**inputs).logits.float()
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    finally:
        model.train(training)
    real = batch["attention_mask"].bool()
    if padded.shape != changed.shape or (padded.ndim == 3 and padded.shape[:2] != real.shape):
        return False
    if padded.ndim == 3:
        padded, changed = padded[real], changed[real]
    return bool((changed - padded).norm() <= _TOLERANCES.get(dtype, 0.1) * padded.norm())


@contextmanager
def unpadded(model: PeftModel, offset: int) -> Iterator[None]:
    """Within: the backbone of a task model computes no padding. `offset`: as of `flat_offset`."""

    def run(backbone: nn.Module, plain: Any, inputs: dict[str, Any]) -> Any:
        return _flat_pass(backbone, plain, inputs, offset)

    with padded_passes(model, run):
        yield


@contextmanager
def padded_passes(
    model: PeftModel, run: Callable[[nn.Module, Callable[..., Any], dict[str, Any]], Any]
) -> Iterator[None]:
    """Within: `run` computes what the backbone of a task model is given as padded rows of ids: called with the backbone, its
    own forward, and the inputs by name."""
    task_model = cast(PreTrainedModel, model.get_base_model())
    backbone = cast(nn.Module, getattr(task_model, task_model.base_model_prefix))
    plain = backbone.forward

    names = list(inspect.signature(plain).parameters)

    @functools.wraps(plain)
    def forward(*given: Any, **inputs: Any) -> Any:
        inputs |= dict(zip(names, given, strict=False))
        mask = inputs.get("attention_mask")
        if inputs.get("input_ids") is None or mask is None or mask.ndim != 2:
            return plain(**inputs)
        return run(backbone, plain, inputs)

    backbone.forward = forward
    try:
        yield
    finally:
        del backbone.forward


def _flat_pass(backbone: nn.Module, plain: Any, inputs: dict[str, Any], offset: int) -> Any:
    real = inputs["attention_mask"].bool()
    lengths = real.sum(dim=1).tolist()
    flat = {
        name: value[real][None] if name in _BY_TOKEN and value is not None else value
        for name, value in inputs.items()
    }
    none = [None] * len(lengths)
    flat |= {"attention_mask": None, "position_ids": positions(lengths, none, offset).to(real.device)}
    with flat_batch(lengths, none):
        output = plain(**flat)
    hidden = output.last_hidden_state[0]
    places = real.flatten().nonzero()[:, 0]
    padded = hidden.new_zeros(real.numel(), hidden.shape[1]).index_copy(0, places, hidden)
    output.last_hidden_state = padded.view(*real.shape, -1)
    if getattr(output, "pooler_output", None) is not None:
        output.pooler_output = cast(Any, backbone).pooler(output.last_hidden_state)
    return output
