"""What an adapter is worth on labelled data, computed the way it is served.

Logits come from adapters.attach, never from PEFT: a metric here is a metric of what users get. Reads data
through the recipe that trained the adapter, with the encoding that its manifest records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.suggest import did_you_mean
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.metrics import Estimate
from adapthub.recipes.recipe import Recipe, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLER = "Use a smaller batch_size, or a quantised base."


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one adapter on one data set. `metrics` has the headline metrics and those of each class
    ("f1/PER").

    `rows` examples, of which `truncated` were cut at the adapter's max_length.
    """

    digest: str
    source: str
    rows: int
    truncated: int
    metrics: Mapping[str, Estimate]


def evaluate(
    artifact: Artifact | str | Path,
    data: str | Path | Any,
    *,
    base: Base | str | None = None,
    quantize: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 64,
    **options: Any,
) -> Evaluation:
    """Measure an adapter on labelled data with bootstrap intervals.

    `base` defaults to the one that the adapter names; `options` are the recipe's reading options
    (scheme=..., ...). Raises InvalidSettings for an adapter without a recipe and for an option that it does
    not take, InvalidData, and what loading
    and attaching raise.
    """
    if not isinstance(artifact, Artifact):
        artifact = Artifact.read(artifact)
    manifest = artifact.manifest
    if manifest is None or manifest.recipe is None or manifest.labels is None:
        raise InvalidSettings(
            f"{artifact.path} cannot be evaluated: it does not say its recipe and labels",
            hint="Adapters that AdaptHub trained have an adapthub.json.",
        )
    recipe = find_recipe(manifest.recipe)
    _check_options(recipe, options, batch_size)
    dataset = recipe.read(data, **options)
    recipe.check(dataset, manifest.labels)
    if not isinstance(base, Base):
        base = load_base(base or manifest.base.id, quantize=quantize, device=device, dtype=dtype)
    if base.tokenizer is None:
        raise InvalidSettings(f"{base.ref} has no tokenizer")
    encoded = recipe.encode(base.tokenizer, dataset, manifest.labels, manifest.hyperparameters)
    adapted = AdaptedBase(base)
    try:
        digest = adapted.attach(artifact)
        outputs = served_logits(adapted, digest, encoded.rows, batch_size=batch_size)
    finally:
        adapted.close()
    estimates = recipe.measure(outputs, dataset, encoded, manifest.labels).estimates()
    return Evaluation(digest, dataset.source, len(dataset), encoded.truncated, estimates)


def _check_options(recipe: Recipe, options: Mapping[str, Any], batch_size: int) -> None:
    for name in options:
        if name not in recipe.options:
            raise InvalidSettings(
                f"{recipe.name} data is not read with {name!r}", hint=did_you_mean(name, recipe.options)
            )
    if batch_size < 1:
        raise InvalidSettings(f"batch_size is a number above 0; {batch_size!r} is not")


def served_logits(
    adapted: AdaptedBase, digest: str, rows: Sequence[Row], *, batch_size: int
) -> list[NDArray[Any]]:
    """Each row's unpadded logits from the served path, in order; rows of similar lengths run together."""
    features = [
        {name: values for name, values in row.items() if name not in ("labels", "label")} for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda at: -len(features[at]["input_ids"]))
    outputs: dict[int, NDArray[Any]] = {}
    with memory_errors("evaluating", _SMALLER):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logits = adapted.logits([features[at] for at in batch], [((1.0, digest),)] * len(batch))
            outputs |= {at: tensor.numpy() for at, tensor in zip(batch, logits, strict=True)}
    return [outputs[at] for at in range(len(rows))]
