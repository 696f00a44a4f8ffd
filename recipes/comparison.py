"""Which of two adapters is better on labelled data, as they are served, or that the data cannot tell.

Both answer the same rows; a base that both were trained over is loaded once. Does not judge whether a difference matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.manifest import Manifest
from adapthub.recipes.evaluation import (
    Answers,
    answers_of,
    base_for,
    encode_for,
    measured,
    read_for,
    recipe_of,
)
from adapthub.recipes.metrics import Measured
from adapthub.recipes.paired import Difference, better, differences
from adapthub.recipes.recipe import GeneratingRecipe
from adapthub.recipes.splits import clusters

_OF_TOKENS = ("loss", "perplexity")  # of a recipe that generates: means over tokens


@dataclass(frozen=True)
class Comparison:
    """Two adapters, by digest, on the `rows` examples of `source`. `metrics`: the second's against the first's, the
    `headline` ones first. `better`: the digest of the one whose first headline metric is clearly better, or None. `notes`:
    what intervals are of, where not of rows.
    """

    first: str
    second: str
    source: str
    rows: int
    headline: tuple[str, ...]
    metrics: Mapping[str, Difference]
    better: str | None
    notes: tuple[str, ...] = ()

    def sentence(self, first: str, second: str) -> str:
        """What follows, in words, for adapters called `first` and `second`."""
        name = self.headline[0]
        one = self.metrics[name]
        if self.better is None:
            apart = f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p {one.p:.3g}"
            return (
                f"The data cannot tell which is better: {name} is {one.first:.4f} for {first} and {one.second:.4f} for"
                f" {second}, {apart} over {one.n} examples."
            )
        wins = self.better == self.second
        best, other = (second, first) if wins else (first, second)
        value, against = (one.second, one.first) if wins else (one.first, one.second)
        low, high = sorted((abs(one.low), abs(one.high)))
        return (
            f"{best} is better: {name} is {value:.4f} against {against:.4f} for {other}, a difference of"
            f" {abs(one.difference):.4f} [{low:.4f}, {high:.4f}], p {one.p:.3g}, over {one.n} examples."
        )


def compare(
    first: Artifact | str | Path,
    second: Artifact | str | Path,
    data: str | Path | Any,
    *,
    base: str | None = None,
    quantize: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 64,
    task: str | None = None,
    **options: Any,
) -> Comparison:
    """Measure two adapters of one task and equal labels on the same data, and tell them apart by paired bootstrap.

    Each runs over the base that it names, held as it was trained over it; `base` and `quantize` ("nf4", "int8", "none") hold
    for both. Losses a token are left out where the bases' tokenizers differ: they are of other tokens. `task` and `options`
    as for `evaluate`. Raises InvalidSettings for adapters that cannot be compared, and what `evaluate` raises.
    """
    artifacts = [each if isinstance(each, Artifact) else Artifact.read(each) for each in (first, second)]
    (recipe, manifest), (_, other) = (recipe_of(each, task) for each in artifacts)
    if manifest.recipe != other.recipe or set(manifest.labels or ()) != set(other.labels or ()):
        raise InvalidSettings(
            f"{_task(manifest)} and {_task(other)} cannot be compared",
            hint="Compare two adapters of one recipe with the same labels.",
        )
    dataset = read_for(recipe, manifest, data, batch_size, options)
    loaded: tuple[tuple[str, str | None], Base] | None = None
    statistics: list[Measured] = []
    for artifact, record in zip(artifacts, (manifest, other), strict=True):
        wanted = base_for(record, base, quantize)
        if loaded is None or loaded[0] != wanted:
            loaded = None  # one base at a time
            loaded = (wanted, load_base(wanted[0], quantize=wanted[1], device=device, dtype=dtype))
        # Which label is a medical picture's finding is said by their order: it is the first adapter's for both.
        alike = record.model_copy(update={"labels": manifest.labels})
        encoded = encode_for(recipe, alike, dataset, loaded[1])
        answers = answers_of(recipe, artifact, loaded[1], dataset, encoded, batch_size=batch_size)
        statistics.append(measured(recipe, alike, dataset, encoded, _ordered(answers, record, manifest)))
    together = clusters(dataset, statistics[0])
    found = differences(*statistics, groups=together.groups if together else None)
    tokenizers = {record.base.fingerprint.tokenizer for record in (manifest, other)}
    if isinstance(recipe, GeneratingRecipe) and len(tokenizers) > 1:
        found = {name: one for name, one in found.items() if name not in _OF_TOKENS}
    headline = tuple(name for name in recipe.metrics if name in found)  # some need rows of a kind
    if not headline:
        raise InvalidSettings(
            "a loss a token cannot be compared where the bases' tokenizers differ, and no texts are written",
            hint="Set answered=128 to compare texts.",
        )
    ordered = {name: found[name] for name in (*headline, *found)}
    winner = better(headline[0], ordered[headline[0]])
    digests = [artifact.digest for artifact in artifacts]
    return Comparison(
        first=digests[0],
        second=digests[1],
        source=dataset.source,
        rows=len(dataset),
        headline=headline,
        metrics=ordered,
        better=digests[winner - 1] if winner else None,
        notes=(together.note,) if together else (),
    )


def _ordered(answers: Answers, own: Manifest, wanted: Manifest) -> Answers:
    """The same with logits in the order of `wanted`'s labels, which are `own`'s."""
    if own.labels == wanted.labels or own.labels is None or wanted.labels is None:
        return answers
    order = [own.labels.index(label) for label in wanted.labels]
    return replace(answers, outputs=[row[..., order] for row in answers.outputs])


def _task(manifest: Manifest) -> str:
    labels = ", ".join(manifest.labels or ())
    return f"an adapter for {manifest.recipe}" + (f" with the labels {labels}" if labels else "")
