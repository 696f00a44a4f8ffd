"""What an adapter is worth on labelled data, computed the way it is served.

Logits come from adapters.attach and texts from the runtime, never from PEFT: a metric here is a metric of what users get.
Reads data through the recipe that trained the adapter, with the encoding that its manifest records.
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
from adapthub.adapters.manifest import Manifest
from adapthub.adapters.suggest import did_you_mean
from adapthub.recipes import answered as written
from adapthub.recipes.catalog import RECIPES, find_recipe
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.data.saved import opened
from adapthub.recipes.metrics import Estimate, Measured
from adapthub.recipes.processors import load_processor
from adapthub.recipes.recipe import EmbeddingRecipe, Encoded, GeneratingRecipe, LabellingRecipe, Recipe
from adapthub.recipes.served import served_outputs
from adapthub.recipes.splits import clusters
from adapthub.runtime.runtime import Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one adapter on one data set. `metrics` has the headline metrics and those of each class
    ("f1/PER").

    `rows` examples, of which `truncated` were cut at the adapter's max_length; `notes`: what is odd in them, and where
    texts of some alone were written.
    """

    digest: str
    source: str
    rows: int
    truncated: int
    metrics: Mapping[str, Estimate]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What an adapter says of each example: its logits, or the losses of its target's tokens; and the text that it writes,
    where the recipe generates."""

    outputs: Sequence[NDArray[Any]]
    texts: Sequence[str] | None


def evaluate(
    artifact: Artifact | str | Path,
    data: str | Path | Any,
    *,
    base: Base | str | None = None,
    quantize: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 64,
    task: str | None = None,
    **options: Any,
) -> Evaluation:
    """Measure an adapter on labelled data with bootstrap intervals.

    `base` defaults to the one that the adapter names, held as it was when that was trained unless `quantize` ("nf4", "int8",
    "none") says otherwise; `task` to its recipe: name the file of one of your own. `options` are the recipe's reading
    options (scheme=..., ...). Raises InvalidSettings for an adapter without a recipe and for an option
    that it does not take, InvalidData, and what loading and attaching raise.
    """
    if not isinstance(artifact, Artifact):
        artifact = Artifact.read(artifact)
    recipe, manifest = recipe_of(artifact, task)
    dataset = read_for(recipe, manifest, data, batch_size, options)
    if not isinstance(base, Base):
        base, quantize = base_for(manifest, base, quantize)
        base = load_base(base, quantize=quantize, device=device, dtype=dtype)
    encoded = encode_for(recipe, manifest, dataset, base)
    statistics = statistics_of(recipe, artifact, base, dataset, encoded, batch_size=batch_size)
    some = written.note(dataset)
    together = clusters(dataset, statistics)
    return Evaluation(
        artifact.digest,
        dataset.source,
        len(dataset),
        encoded.truncated,
        statistics.estimates(groups=together.groups if together else None),
        (*dataset.notes, *([some] if some else ()), *([together.note] if together else ())),
    )


def recipe_of(artifact: Artifact, task: str | None = None) -> tuple[Recipe, Manifest]:
    """The recipe that trained an adapter, `task` if it is one of your own, and its manifest. Raises InvalidSettings where
    it does not say, or another trained it."""
    manifest = artifact.manifest
    if manifest is None or manifest.recipe is None:
        raise InvalidSettings(
            f"{artifact.path} cannot be evaluated: it does not say its recipe",
            hint="Adapters that AdaptHub trained have an adapthub.json.",
        )
    return _recipe(task, manifest.recipe), manifest


def base_for(manifest: Manifest, base: str | None, quantize: str | None) -> tuple[str, str | None]:
    """Which base an adapter is measured over, and how that is held ("none": whole): as it was trained, where nothing else is
    said."""
    chosen = manifest.quantization if quantize is None else quantize
    return base or manifest.base.id, None if chosen == "none" else chosen


def read_for(
    recipe: Recipe, manifest: Manifest, data: Any, batch_size: int, options: Mapping[str, Any]
) -> Dataset:
    """Labelled data that an adapter can be measured on. Raises InvalidSettings for an option that reading does not take,
    InvalidData for data that the adapter's labels do not fit."""
    _check_options(recipe, options, batch_size)
    dataset = recipe.read(opened(data), **options)
    recipe.check(dataset, manifest.labels or ())
    return dataset


def encode_for(recipe: Recipe, manifest: Manifest, dataset: Dataset, base: Base) -> Encoded:
    """`dataset` as the adapter was trained to see such rows."""
    processor = load_processor(recipe, base)
    return recipe.encode(processor, dataset, manifest.labels or (), manifest.hyperparameters)


def _recipe(task: str | None, recorded: str) -> Recipe:
    if task is None and recorded not in RECIPES:
        raise InvalidSettings(
            f"the adapter was trained by a recipe {recorded!r} that is none of ours",
            hint="Name its file as the task.",
        )
    recipe = find_recipe(task or recorded)
    if recipe.name != recorded:
        raise InvalidSettings(
            f"the adapter was trained by the recipe {recorded!r}, and {task} is {recipe.name!r}"
        )
    return recipe


def statistics_of(
    recipe: Recipe, artifact: Artifact, base: Base, dataset: Dataset, encoded: Encoded, *, batch_size: int
) -> Measured:
    """What each example of `dataset` adds to the metrics of `artifact`, served on `base`.

    `encoded`: the same examples, with the settings that the artifact's manifest records. Raises what attaching raises.
    """
    answers = answers_of(recipe, artifact, base, dataset, encoded, batch_size=batch_size)
    manifest = artifact.manifest
    assert manifest is not None
    return measured(recipe, manifest, dataset, encoded, answers)


def answers_of(
    recipe: Recipe, artifact: Artifact, base: Base, dataset: Dataset, encoded: Encoded, *, batch_size: int
) -> Answers:
    """What `artifact` says of the examples, served on `base`; arguments as for `statistics_of`."""
    manifest = artifact.manifest
    assert manifest is not None
    adapted = AdaptedBase(base)
    try:
        digest = adapted.attach(artifact)
        outputs = served_outputs(
            recipe, adapted, digest, encoded.rows, manifest.hyperparameters, batch_size=batch_size
        )
    finally:
        adapted.close()
    if isinstance(recipe, GeneratingRecipe):
        with Runtime(base) as runtime:
            texts = recipe.answers(runtime, str(artifact.path), dataset, manifest.hyperparameters)
        return Answers(outputs, texts)
    return Answers(outputs, None)


def measured(
    recipe: Recipe, manifest: Manifest, dataset: Dataset, encoded: Encoded, answers: Answers
) -> Measured:
    """What each example adds to the metrics, by what was answered."""
    if isinstance(recipe, GeneratingRecipe):
        assert answers.texts is not None
        return recipe.measure_texts(answers.texts, answers.outputs, dataset)
    if isinstance(recipe, EmbeddingRecipe):
        return recipe.measure_vectors(answers.outputs, dataset)
    assert isinstance(recipe, LabellingRecipe)
    return recipe.measure(answers.outputs, dataset, encoded, manifest.labels or ())


def _check_options(recipe: Recipe, options: Mapping[str, Any], batch_size: int) -> None:
    for name in options:
        if name not in recipe.options:
            raise InvalidSettings(
                f"{recipe.name} data is not read with {name!r}", hint=did_you_mean(name, recipe.options)
            )
    if batch_size < 1:
        raise InvalidSettings(f"batch_size is a number above 0; {batch_size!r} is not")
