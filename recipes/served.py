"""What models say of encoded rows: the trained one in PEFT, and the same adapter as it is served.

Logits of recipes that label; the losses of target tokens of recipes that generate; vectors of recipes that embed. What was
trained is compared with what is served by these, and metrics are made of the served ones. Does not decide what differs too
much, and makes no texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import Base
from adapthub.adapters.heads import outputs_of
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.pooling import MEAN, vector_of, vectors_of
from adapthub.adapters.selections import Selection
from adapthub.adapters.speech import speech_of
from adapthub.adapters.tasks import SPEECH
from adapthub.adapters.token_losses import token_losses
from adapthub.recipes.adaptation import autocast
from adapthub.recipes.answer_rows import sequences
from adapthub.recipes.batches import IGNORED
from adapthub.recipes.recipe import (
    Collator,
    EmbeddingRecipe,
    GeneratingRecipe,
    PreferringRecipe,
    Recipe,
    Row,
    lengths_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLER = "Use a smaller batch_size, or a quantised base."
_SPEECH_ROWS = 8  # recordings at once: Whisper reads 1,500 positions of each


def served_outputs(
    recipe: Recipe,
    adapted: AdaptedBase,
    digest: str,
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    *,
    batch_size: int,
) -> list[NDArray[Any]]:
    """Each row's unpadded logits, or the losses of its target tokens [tokens], from the served path, in order. `settings` as
    in `Recipe.encode`."""
    with memory_errors("evaluating", _SMALLER):
        if isinstance(recipe, PreferringRecipe):
            return _served_likelihoods(adapted, digest, rows)
        if isinstance(recipe, GeneratingRecipe):
            return target_losses(recipe, adapted, rows, ((1.0, digest),), batch_size=batch_size)
        if isinstance(recipe, EmbeddingRecipe):
            return _served_vectors(adapted, digest, rows, settings.get("pooling", MEAN), batch_size)
        return _served_logits(adapted, digest, rows, batch_size)


def target_losses(
    recipe: Recipe, adapted: AdaptedBase, rows: Sequence[Row], selection: Selection, *, batch_size: int
) -> list[NDArray[Any]]:
    """The losses of each row's target tokens under the adapters of `selection`, or the base alone."""
    if recipe.task == SPEECH:
        return _speech_losses(recipe, adapted, rows, selection, min(batch_size, _SPEECH_ROWS))
    return [loss.numpy() for loss in token_losses(adapted, rows, selection)]


def trained_outputs(
    recipe: Recipe,
    base: Base,
    model: torch.nn.Module,
    rows: Sequence[Row],
    collate: Collator,
    settings: Mapping[str, Any],
) -> list[NDArray[Any]]:
    """The same from the PEFT model that was trained. One row at a time where logits are as wide as a vocabulary."""
    model.eval()
    with torch.inference_mode(), autocast(base):
        if isinstance(recipe, PreferringRecipe):
            return [_trained_likelihoods(base, model, row, collate) for row in rows]
        if recipe.task == SPEECH:
            speech = speech_of(base)
            losses = [speech.losses(model, _on(base, collate([dict(row)])))[0] for row in rows]
            return [loss.float().cpu().numpy() for loss in losses]
        if isinstance(recipe, GeneratingRecipe):
            return [_losses(model, _on(base, collate([dict(row)]))) for row in rows]
        if isinstance(recipe, EmbeddingRecipe):
            pooling = settings.get("pooling", MEAN)
            return [_vectors(model, _on(base, collate([dict(row)])), pooling) for row in rows]
        logits = logits_of(model, _on(base, collate([dict(row) for row in rows]))).cpu().numpy()
    if logits.ndim == 2:
        return list(logits)
    return [output[:length] for length, output in zip(lengths_of(rows), logits, strict=True)]


def logits_of(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The model's logits of a batch, in float32; of a backbone alone its last hidden states."""
    output = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    return outputs_of(output).float()


def _served_logits(
    adapted: AdaptedBase, digest: str, rows: Sequence[Row], batch_size: int
) -> list[NDArray[Any]]:
    """Rows of similar lengths run together."""
    lengths = lengths_of(rows)
    order = sorted(range(len(rows)), key=lambda at: -lengths[at])
    outputs: dict[int, NDArray[Any]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        logits = _logits(adapted, [_features(rows[at]) for at in batch], [((1.0, digest),)] * len(batch))
        outputs |= {at: tensor.numpy() for at, tensor in zip(batch, logits, strict=True)}
    return [outputs[at] for at in range(len(rows))]


def _speech_losses(
    recipe: Recipe, adapted: AdaptedBase, rows: Sequence[Row], selection: Selection, at_once: int
) -> list[NDArray[Any]]:
    base, collate = adapted.base, recipe.collator(cast(Any, adapted.base.processor))
    speech, losses = speech_of(base), list[torch.Tensor]()
    at_once = 1 if speech.hears_padding else at_once
    with adapted.applying_to_all(selection), torch.inference_mode():
        for start in range(0, len(rows), at_once):
            batch = _on(base, collate([dict(row) for row in rows[start : start + at_once]]))
            batch = {
                name: tensor.to(base.dtype) if tensor.is_floating_point() else tensor
                for name, tensor in batch.items()
            }
            losses += speech.losses(base.model, batch)
    return [loss.float().cpu().numpy() for loss in losses]


def _served_vectors(
    adapted: AdaptedBase, digest: str, rows: Sequence[Row], pooling: str, batch_size: int
) -> list[NDArray[Any]]:
    """The vectors [texts, hidden] of each row."""
    counts = [len(row["texts"]) for row in rows]
    texts = [text for row in rows for text in row["texts"]]
    hidden = map(torch.from_numpy, _served_logits(adapted, digest, texts, batch_size))
    vectors = (vector_of(states, pooling).numpy() for states in hidden)
    return [np.stack([next(vectors) for _ in range(count)]) for count in counts]


def _vectors(model: torch.nn.Module, batch: Mapping[str, torch.Tensor], pooling: str) -> NDArray[Any]:
    return np.asarray(vectors_of(logits_of(model, batch), batch["attention_mask"], pooling).cpu().numpy())


def _logits(
    adapted: AdaptedBase, features: Sequence[dict[str, Any]], selections: Sequence[Selection]
) -> list[torch.Tensor]:
    """Of texts by their tokens, or of pictures by their pixels."""
    if "pixel_values" in features[0]:
        return adapted.image_logits([row["pixel_values"] for row in features], selections)
    return adapted.logits(features, selections)


def _features(row: Row) -> dict[str, Any]:
    return {name: values for name, values in row.items() if name not in ("labels", "label")}


def likelihoods(adapted: AdaptedBase, rows: Sequence[Row], selection: Selection) -> NDArray[Any]:
    """The log likelihoods of both answers of each row [rows, 2], in nats, under the adapters of `selection`."""
    answers = [answer for row in rows for answer in sequences(row)]
    return np.array([-float(loss.sum()) for loss in token_losses(adapted, answers, selection)]).reshape(-1, 2)


def _served_likelihoods(adapted: AdaptedBase, digest: str, rows: Sequence[Row]) -> list[NDArray[Any]]:
    """For each row what PreferringRecipe.measure takes."""
    own, base = (likelihoods(adapted, rows, selection) for selection in (((1.0, digest),), ()))
    return list(np.concatenate([own, base], axis=1))


def _trained_likelihoods(base: Base, model: Any, row: Row, collate: Collator) -> NDArray[Any]:
    """The same from a PEFT model."""
    batch = _on(base, collate([row]))
    answers = [{name: part[at : at + 1] for name, part in batch.items()} for at in range(2)]
    own = [-_losses(model, answer).sum() for answer in answers]
    with model.disable_adapter():
        return np.array([*own, *(-_losses(model, answer).sum() for answer in answers)])


def _losses(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> NDArray[Any]:
    """Negative log likelihoods of one row's targets, in nats."""
    if "decoder_input_ids" in batch:
        found = F.cross_entropy(logits_of(model, batch)[0], batch["labels"][0], reduction="none")
        return np.asarray(found.cpu().numpy())
    targets = batch["labels"][0, 1:]
    # PEFT gives logits of a prompt's virtual tokens too, before those of the row.
    logits = logits_of(model, batch)[0, -len(targets) - 1 : -1]
    losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
    return np.asarray(losses[targets != IGNORED].cpu().numpy())


def _on(base: Base, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(base.device) for name, tensor in batch.items()}
