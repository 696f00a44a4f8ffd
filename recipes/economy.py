"""What makes a step of training cheaper and changes nothing that is learnt: no padding, activations computed again, and on a
GPU batches of few lengths, whose layers are fused, and replayed.

Does not choose sizes or compute losses (language_loss does).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from peft import PeftModel

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.flat import same_rows
from adapthub.adapters.kernel_trial import kernels_run
from adapthub.recipes.captured_layers import captured
from adapthub.recipes.fused_layers import fused, kernels_for
from adapthub.recipes.layer_graphs import Cuda
from adapthub.recipes.length_groups import LengthGroups
from adapthub.recipes.recipe import PreferringRecipe, lengths_of
from adapthub.recipes.rounded import lengths_to, mask_for, rounded
from adapthub.recipes.unpadded import flat_offset, runs_unpadded, unpadded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

    from adapthub.adapters.base import Base
    from adapthub.recipes.job import Job

_MUCH_PADDING = 0.1
# How many shapes of a product are prepared at a time, by oneDNN and by torch beside it; each keeps 1,024 otherwise.
_PRIMITIVES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


def keep_few_primitives() -> None:
    """Before anything is computed: on a CPU oneDNN and torch keep what they prepared for each shape of a product, and
    batches without padding hardly ever have one again. 80 steps of ner on MiniLM in bfloat16 took 2.15 GB at most, 1.73
    with oneDNN's few alone and 1.41 with both, in no more time. What the environment says goes before."""
    for name, count in _PRIMITIVES.items():
        os.environ.setdefault(name, count)


@contextmanager
def economies(job: Job, base: Base, model: PeftModel) -> Iterator[None]:
    """Within: passes of `model` save what the job's settings say and its base allows.

    Raises InvalidSettings for activations computed again of a base or a method that cannot.
    """
    with ExitStack() as saving:
        for each in _ways(job, base, model):
            saving.enter_context(each)
        yield


def _replays(job: Job, device: torch.device) -> bool:
    alone = not torch.distributed.is_initialized()
    return alone and kernels_run(device) and not job.settings.gradient_checkpointing


def _ways(job: Job, base: Base, model: PeftModel) -> Iterator[AbstractContextManager[None]]:
    """One after the other: each may depend on those before."""
    yield padding_spared(job, base, model)[1]
    if (kernels := kernels_for(base.device)) is not None:
        yield fused(model, kernels)
    if job.settings.gradient_checkpointing:
        yield recomputed(model)
    if _replays(job, base.device):
        yield captured(model, lambda: Cuda(base.device))


@contextmanager
def recomputed(model: PeftModel) -> Iterator[None]:
    """Within: a layer keeps its input alone, and backward computes the rest of it again."""
    base = cast("PreTrainedModel", model.get_base_model())
    if model.active_peft_config.is_prompt_learning or not base.supports_gradient_checkpointing:
        raise InvalidSettings(
            "gradient_checkpointing does not work with this base and method", hint="Lower batch_size instead."
        )
    base.activation_checkpointing_enable({"use_reentrant": False, "context_fn": same_rows})
    try:
        yield
    finally:
        base.activation_checkpointing_disable()


def padding(lengths: Sequence[int] | NDArray[np.int64], batch_size: int) -> float:
    """The share of an epoch's batches that is padding, in the order that they are trained in."""
    lengths = np.asarray(lengths, np.int64)
    ordered = lengths[np.fromiter(LengthGroups(lengths, batch_size, seed=0), np.int64, len(lengths))]
    starts = np.arange(0, len(ordered), batch_size)
    longest = np.maximum.reduceat(ordered, starts)
    room = int((longest * np.diff(starts, append=len(ordered))).sum())
    return 1 - int(ordered.sum()) / room


def padding_spared(
    job: Job, base: Base, model: PeftModel
) -> tuple[bool | Literal["auto"], AbstractContextManager[None]]:
    """How passes of `model` save padding, once it was tried what the base allows, and the `packing` that says so: "auto" for
    batches of a few lengths (rounded), which on a GPU are replayed and cost less than rows without padding, each of which
    attends in launches of its own; True for rows without padding, False for none of these."""
    auto = job.settings.packing == "auto" and not isinstance(job.recipe, PreferringRecipe)
    if auto and _replays(job, base.device):
        longest = int(lengths_of(job.taught).max())
        most = job.settings.max_length or longest  # for which there are positions
        masked = mask_for(model, _unlike_rows(job, base), most)
        if masked is not None:
            return "auto", rounded(model, lengths_to(longest, most), masked=masked)
    if packs(job) and not model.active_peft_config.is_prompt_learning:
        offset = flat_offset(base)
        if offset is not None and runs_unpadded(model, offset, _unlike_rows(job, base)):
            return True, unpadded(model, offset)
    return False, nullcontext()


def packs(job: Job) -> bool:
    """Whether batches are to run without their padding: attention by row costs about what a little of it costs.

    Raises InvalidSettings where it is asked of TRL's passes.
    """
    if isinstance(job.recipe, PreferringRecipe):
        if job.settings.packing is True:
            raise InvalidSettings(f"packing does not work with {job.recipe.name}", hint="Leave it out.")
        return False
    if job.settings.packing != "auto":
        return job.settings.packing
    lengths = lengths_of(job.taught)
    return padding(lengths, job.settings.batch_size) >= _MUCH_PADDING


def _unlike_rows(job: Job, base: Base) -> dict[str, Tensor]:
    """The shortest row, and one of half the length of the longest: a batch with padding, where lengths differ."""
    rows = job.taught
    lengths = lengths_of(rows)
    long = np.where(2 * lengths >= lengths.max(), lengths, lengths.max())
    pair = int(lengths.argmin()), int(long.argmin())
    batch = job.recipe.collator(job.processor)([dict(rows[at]) for at in pair])
    return {name: tensor.to(base.device) for name, tensor in batch.items()}
