"""What an adapter answers once it is merged into its base, as PEFT merges and transformers runs it.

The base that is given is changed: load one for this alone. Does not save what is merged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import Base
from adapthub.adapters.heads import task_model
from adapthub.recipes.adaptation import peft_warnings
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.evaluation import Answers
from adapthub.recipes.processors import load_processor
from adapthub.recipes.recipe import Encoded, GeneratingRecipe, PreferringRecipe, Recipe, lengths_of
from adapthub.recipes.served import likelihoods, target_losses, trained_outputs
from adapthub.runtime.runtime import Runtime

Said = TypeVar("Said")


def merged_answers(
    recipe: Recipe, artifact: Artifact, base: Base, dataset: Dataset, encoded: Encoded, *, batch_size: int
) -> Answers:
    """What `evaluation.answers_of` gives, by the merged weights and without an adapter."""
    manifest = artifact.manifest
    assert manifest is not None
    if isinstance(recipe, PreferringRecipe):
        reference = _alone(base, lambda adapted: likelihoods(adapted, encoded.rows, ()))
        merge(base, artifact)
        own = _alone(base, lambda adapted: likelihoods(adapted, encoded.rows, ()))
        return Answers(list(np.concatenate([own, reference], axis=1)), None)
    model = merge(base, artifact)
    if isinstance(recipe, GeneratingRecipe):
        losses = _alone(
            base,
            lambda adapted: target_losses(recipe, adapted, encoded.rows, (), batch_size=batch_size),
        )
        with Runtime(base) as runtime:
            return Answers(losses, recipe.answers(runtime, None, dataset, manifest.hyperparameters))
    collate = recipe.collator(load_processor(recipe, base))
    lengths = lengths_of(encoded.rows)
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    outputs: dict[int, Any] = {}
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        rows = [encoded.rows[at] for at in places]
        found = trained_outputs(recipe, base, model, rows, collate, manifest.hyperparameters)
        outputs |= dict(zip(places, found, strict=True))
    return Answers([outputs[at] for at in range(len(lengths))], None)


def _alone(base: Base, ask: Callable[[AdaptedBase], Said]) -> Said:
    """What `base` says as it is now, served without an adapter."""
    adapted = AdaptedBase(base)
    try:
        return ask(adapted)
    finally:
        adapted.close()


def merge(base: Base, artifact: Artifact) -> PreTrainedModel:
    """The task's model with the adapter in its weights; where the task has no head of its own, `base.model` itself.

    Raises what PEFT raises for a method that it cannot merge.
    """
    manifest = artifact.manifest
    assert manifest is not None
    model = task_model(base, manifest.task or "", manifest.labels or ())
    if base.tokenizer is not None and model.config is not base.model.config:
        model.config.pad_token_id = (
            base.tokenizer.pad_token_id
        )  # decoders classify at the last token before it
    with peft_warnings():
        wrapped: Any = PeftModel.from_pretrained(model, str(artifact.path))
    return cast(PreTrainedModel, wrapped.merge_and_unload().eval())
