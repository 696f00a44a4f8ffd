"""Portability: what an adapter is over its base in nf4, int8 and bf16, and merged, against the base it was trained on.

Every form answers the same rows. A form is "worse" where the paired interval of a headline metric lies wholly on the worse
side of 0; else it "holds", as far as so many rows can tell. One base is in memory at a time. Merging is PEFT's own. Does not
decide whether a small change matters.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.card import with_portability
from adapthub.adapters.errors import InvalidSettings, MissingDependency, OutOfMemory
from adapthub.adapters.manifest import Certificate, DataRecord, Drift, Form, Manifest
from adapthub.recipes import answered as written
from adapthub.recipes.batches import IGNORED
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.evaluation import Answers, answers_of, encode_for, measured, read_for, recipe_of
from adapthub.recipes.merging import merged_answers
from adapthub.recipes.paired import better, differences
from adapthub.recipes.recipe import EmbeddingRecipe, PreferringRecipe
from adapthub.recipes.splits import Clusters, clusters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adapthub.recipes.metrics import Measured
    from adapthub.recipes.recipe import Encoded, Recipe

FORMS: tuple[Form, ...] = get_args(Form)
# How the base of a form is held: quantisation, and the numbers of the rest.
_HELD: Mapping[str, tuple[str | None, str]] = {
    "float32": (None, "float32"),
    "nf4": ("nf4", "float32"),
    "int8": ("int8", "float32"),
    "bf16": (None, "bfloat16"),
    "merged": (None, "float32"),
}
_DTYPE = "dtype"  # of a manifest's `hardware`: see outcome.manifest_of
_TASK_OF_SPANS = "question-answering"


@dataclass(frozen=True)
class Certification:
    """What was found. `certificates` by form; `left_out`: forms that could not be measured, and why.

    `headline` names the metrics that the verdicts rest on. `notes`: what intervals are of, where not of rows.
    """

    artifact: Artifact
    reference: Form
    certificates: Mapping[Form, Certificate]
    left_out: Mapping[Form, str]
    headline: tuple[str, ...]
    notes: tuple[str, ...] = ()


def certify(
    artifact: Artifact | str | Path,
    data: str | Path | Any,
    *,
    forms: Sequence[str] = (),
    base: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    task: str | None = None,
    report: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Certification:
    """Measure `artifact` over other forms of its base, all of FORMS but its own by default. `task` and `options`
    as for `evaluate`; `report` is told which form is measured next.

    Raises InvalidSettings for an unknown form, and what `evaluate` raises.
    """
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.read(artifact)
    recipe, manifest = recipe_of(artifact, task)
    reference, dtype = _as_trained(manifest)
    wanted = _wanted(forms, reference)
    dataset = read_for(recipe, manifest, data, batch_size, options)
    bench = _Bench(artifact, recipe, manifest, dataset, base or manifest.base.id, device, batch_size)
    report(f"measuring over the base in {reference}{_how_trained(manifest, dtype)}")
    before = bench.over(reference, dtype)
    together = clusters(dataset, before.statistics)
    certificates: dict[Form, Certificate] = {}
    left_out: dict[Form, str] = {}
    for form in wanted:
        report(f"measuring {'merged into the base' if form == 'merged' else f'over the base in {form}'}")
        try:
            after = bench.over(form)
        except (MissingDependency, InvalidSettings, OutOfMemory) as error:
            left_out[form] = error.message
            continue
        if not all(np.isfinite(row).all() for row in after.outputs):
            left_out[form] = "some outputs are not finite"
            continue
        certificates[form] = bench.certificate(reference, before, after, together)
    notes = (together.note,) if together else ()
    return Certification(artifact, reference, certificates, left_out, bench.headline(before), notes)


def write_certified(found: Certification, target: Path | str) -> Artifact:
    """The adapter in a new folder, its certificates in manifest and card, all else as it was; a signature of the old files
    is not taken along. Raises Conflict where the folder is there.
    """
    artifact = found.artifact
    manifest = cast(Manifest, artifact.manifest)
    # In the order of FORMS; those of an earlier certification stay where they were not measured again.
    known: dict[Form, Certificate] = {**manifest.certificates, **found.certificates}
    manifest = manifest.model_copy(
        update={"certificates": {form: known[form] for form in FORMS if form in known}}
    )
    documents = {
        name: (artifact.path / name).read_bytes()
        for name in artifact.files
        if name not in ("adapter_config.json", "adapter_model.safetensors", "adapthub.json", "README.md")
    }
    card = artifact.path / "README.md"
    return write_artifact(
        target,
        manifest=manifest,
        card=with_portability(card.read_text(encoding="utf-8") if card.exists() else "", manifest),
        config=artifact.config,
        tensors=artifact.tensors(),
        extra=documents,
    )


@dataclass(frozen=True)
class _Bench:
    """One adapter on one set of rows, over any form of its base."""

    artifact: Artifact
    recipe: Recipe
    manifest: Manifest
    dataset: Dataset
    base: str
    device: str
    batch_size: int

    def over(self, form: Form, dtype: str | None = None) -> _Outcome:
        """`dtype`: where what is not quantised is not as in _HELD."""
        quantize, usual = _HELD[form]
        if form == "merged" and self.artifact.method in ("prefix", "prompt"):
            raise InvalidSettings(
                f"{self.artifact.method} tuning changes no weight, so there is nothing to merge"
            )
        gc.collect()  # of the base before, whatever still holds itself in a circle
        base = load_base(self.base, quantize=quantize, device=self.device, dtype=dtype or usual)
        encoded = encode_for(self.recipe, self.manifest, self.dataset, base)
        answer = merged_answers if form == "merged" else answers_of
        answers = answer(self.recipe, self.artifact, base, self.dataset, encoded, batch_size=self.batch_size)
        statistics = measured(self.recipe, self.manifest, self.dataset, encoded, answers)
        return _Outcome(answers.outputs, _decisions(self.recipe, self.dataset, encoded, answers), statistics)

    def headline(self, outcome: _Outcome) -> tuple[str, ...]:
        """The recipe's metrics that these rows have: some need rows of a kind."""
        found = outcome.statistics.values()
        return tuple(name for name in self.recipe.metrics if name in found)

    def certificate(
        self, reference: Form, before: _Outcome, after: _Outcome, together: Clusters | None
    ) -> Certificate:
        found = differences(before.statistics, after.statistics, groups=together.groups if together else None)
        headline = self.headline(before)
        drifts = {
            name: Drift(
                reference=one.first,
                value=one.second,
                difference=one.difference,
                low=one.low,
                high=one.high,
                n=one.n,
            )
            for name, one in ((name, found[name]) for name in headline)
        }
        worse = any(better(name, found[name]) == 1 for name in headline)
        pairs = list(zip(before.outputs, after.outputs, strict=True))
        largest = max(float(np.abs(row).max(initial=0)) for row in before.outputs) or 1.0
        apart = [np.abs(after_row - before_row) for before_row, after_row in pairs]
        values = sum(row.size for row in apart) or 1
        return Certificate(
            reference=reference,
            data=DataRecord(
                fingerprint=self.dataset.fingerprint,
                rows=len(self.dataset),
                source=Path(self.dataset.source).name,
                groups=together.count if together else None,
            ),
            metrics=drifts,
            max_drift=max(float(row.max(initial=0)) for row in apart) / largest,
            mean_drift=sum(float(row.sum()) for row in apart) / values / largest,
            changed=_changed(before.decisions, after.decisions),
            verdict="worse" if worse else "holds",
        )


@dataclass(frozen=True)
class _Outcome:
    outputs: Sequence[NDArray[Any]]
    decisions: Sequence[Any]
    statistics: Measured


def _as_trained(manifest: Manifest) -> tuple[Form, str]:
    """The form of the base that an adapter was trained on, and the numbers of what was not quantised: float32 where its
    manifest names none that a form has."""
    dtype = "bfloat16" if manifest.hardware.get(_DTYPE) == "bfloat16" else "float32"
    return manifest.quantization or ("bf16" if dtype == "bfloat16" else "float32"), dtype


def _how_trained(manifest: Manifest, dtype: str) -> str:
    rest = f", the rest of it in {dtype}" if manifest.quantization else ""
    recorded = manifest.hardware.get(_DTYPE)
    if recorded == dtype:
        return f"{rest}, as the adapter was trained"
    was = f"was trained in {recorded}" if recorded else "does not say in which numbers it was trained"
    return f"{rest}; the adapter {was}"


def _wanted(forms: Sequence[str], reference: Form) -> list[Form]:
    for form in forms:
        if form not in FORMS:
            raise InvalidSettings(
                f"there is no form {form!r} of a base", hint=f"There is: {', '.join(FORMS)}."
            )
        if form == reference:
            raise InvalidSettings(
                f"{form} is what the adapter was trained on: it is what the others are held against"
            )
    return [form for form in FORMS if form != reference and (not forms or form in forms)]


def _decisions(recipe: Recipe, dataset: Dataset, encoded: Encoded, answers: Answers) -> list[Any]:
    """What each row's answer comes to: its text where one is asked for, its labels, its span, which of two answers gained
    more, which passage is nearest."""
    if answers.texts is not None:
        return [answers.texts[at] for at in written.places(dataset)]
    if isinstance(recipe, EmbeddingRecipe):
        return _nearest([row["texts"][1]["input_ids"] for row in encoded.rows], answers.outputs)
    if isinstance(recipe, PreferringRecipe):
        return [int(np.argmax(likelihoods[:2] - likelihoods[2:])) for likelihoods in answers.outputs]
    return [
        _decision(recipe.task, logits, row.get("labels"))
        for row, logits in zip(encoded.rows, answers.outputs, strict=True)
    ]


def _nearest(passages: Sequence[Sequence[int]], vectors: Sequence[NDArray[Any]]) -> list[int]:
    """For each row's query the place of the passage nearest to it by cosine. Equal passages, by their tokens, are one."""
    places = {tuple(tokens): at for at, tokens in reversed(list(enumerate(passages)))}
    first = sorted(places.values())
    found = np.stack([vectors[at][1] for at in first])
    found = found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
    return [first[int(np.argmax(found @ own[0]))] for own in vectors]


def _decision(task: str, logits: NDArray[Any], labels: Any) -> list[Any]:
    if task == _TASK_OF_SPANS:
        return list(np.argmax(logits, axis=0))
    if logits.ndim == 1 and np.size(labels) == len(logits) > 1:  # any number of labels, each by itself
        return list(logits > 0)
    best = np.argmax(logits, axis=-1)
    if logits.ndim > 1 and np.shape(labels) == best.shape:
        best = best[np.asarray(labels) != IGNORED]
    return list(np.atleast_1d(best))


def _changed(before: Sequence[Any], after: Sequence[Any]) -> float | None:
    """The share of decisions that differ; None where there are none, as of texts that nobody asked for (`answered`)."""
    changed = [one != other for one, other in zip(before, after, strict=True)]
    return float(sum(changed) / len(changed)) if changed else None
