"""What a run ends with: its artifact, proven to be served as it was trained, and measured.

Written twice: first without metrics, so that nothing trained can be lost, then with them. Does not train or
publish.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import Base
from adapthub.adapters.card import card
from adapthub.adapters.errors import TrainingError
from adapthub.adapters.files import write_bytes
from adapthub.adapters.manifest import BaseRecord, DataRecord, Manifest, Metric
from adapthub.recipes import curves
from adapthub.recipes.adaptation import Adaptation, adapt
from adapthub.recipes.environment import hardware, libraries
from adapthub.recipes.evaluation import answers_of, measured
from adapthub.recipes.job import Job, Split
from adapthub.recipes.medical_metrics import MedicalStatistics
from adapthub.recipes.metrics import Estimate, Measured
from adapthub.recipes.processes import ALONE, Processes
from adapthub.recipes.recipe import ChoosingAfterwards, Row, lengths_of
from adapthub.recipes.run import Run
from adapthub.recipes.served import served_outputs, trained_outputs
from adapthub.recipes.splits import clusters

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel

_COMPARED_ROWS, _REHEARSED_ROWS = 16, 2
# Largest difference of logits, relative to the largest logit: rounding of the base's arithmetic, and no more.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_NUDGE = 0.05


class Outcome:
    """Writes and measures the artifact of one run."""

    def __init__(
        self,
        job: Job,
        base: Base,
        run: Run,
        name: str | None,
        processes: Processes = ALONE,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._tell = tell
        self._processes = processes
        self._job = job
        self._base = base
        self._run = run
        self._name = name or run.path.name
        self._trained: list[NDArray[Any]] = []
        self._config: Any = None
        self._tensors: dict[str, torch.Tensor] = {}
        self._chosen: dict[str, Any] = {}
        self._picture = b""
        self._reliability = b""

    def save(self, adaptation: Adaptation) -> Artifact:
        """Write the artifact, not measured yet, remember what the trained model says on a few rows, and draw the curve."""
        model = adaptation.model
        self._config = model.active_peft_config
        self._tensors = adaptation.tensors()
        self._trained = compared_outputs(self._job, self._base, model, compared_rows(self._job))
        artifact = self._write({})
        title = f"{self._name} on {self._job.base.ref}"
        self._picture = curves.png(curves.Curves.of(self._run.history, self._job.recipe.metrics[0]), title)
        write_bytes(self._run.curve, self._picture)
        return artifact

    def verify(self, anew: Callable[[], Base] | None = None) -> None:
        """Serve the saved artifact on the released base and compare it with the trained model. `anew` loads the base again
        where it lies in parts. Raises TrainingError where what is served is not what was trained; the artifact stays."""
        if anew is not None:
            self._base = anew()
        adapted = AdaptedBase(self._base)
        try:
            digest, rows = adapted.attach(Artifact.read(self._run.adapter)), compared_rows(self._job)
            compare(adapted, digest, self._job, rows, self._trained, f"it is kept at {self._run.adapter}")
        finally:
            adapted.close()

    def measure(self) -> tuple[Artifact, dict[str, dict[str, Estimate]]]:
        """Measure the saved artifact as it is served on every split but "train", and write it anew with its metrics."""
        metrics, groups = {}, {}
        for name, split in self._job.splits.items():
            if name == "train":
                continue
            statistics = self._statistics(name, split)
            together = clusters(split.dataset, statistics)
            if together:
                groups[name] = together.count
                self._tell(f"{name}: {together.note}")
            metrics[name] = statistics.estimates(groups=together.groups if together else None)
            if isinstance(statistics, MedicalStatistics):
                self._reliability = curves.reliability_png(statistics.reliability(), f"{self._name}, {name}")
                write_bytes(self._run.reliability, self._reliability)
        artifact = self._write(metrics, groups)
        self._run.finish(metrics=_plain(metrics), artifact=artifact.digest)
        return artifact, metrics

    def _statistics(self, name: str, split: Split) -> Measured:
        """What the artifact is worth on a split. What the recipe chooses by validation holds from there on."""
        recipe, artifact = self._job.recipe, Artifact.read(self._run.adapter)
        batch_size = self._job.settings.eval_batch_size
        answers = answers_of(
            recipe, artifact, self._base, split.dataset, split.encoded, batch_size=batch_size
        )
        if name == "validation" and isinstance(recipe, ChoosingAfterwards):
            self._chosen, words = recipe.chosen(answers.outputs, split.dataset, split.encoded)
            if words:
                self._tell(words)
        encoded = split.encoded
        if self._chosen:
            encoded = replace(encoded, settings={**encoded.settings, **self._chosen})
        assert artifact.manifest is not None
        return measured(recipe, artifact.manifest, split.dataset, encoded, answers)

    def _write(
        self, metrics: Mapping[str, Mapping[str, Estimate]], groups: Mapping[str, int] = MappingProxyType({})
    ) -> Artifact:
        manifest = manifest_of(self._job, self._base, metrics, groups, self._processes.count, self._chosen)
        return write_artifact(
            self._run.adapter,
            config=self._config,
            tensors=self._tensors,
            manifest=manifest,
            card=card(manifest, name=self._name),
            extra={
                name: picture
                for name, picture in (("loss.png", self._picture), ("reliability.png", self._reliability))
                if picture
            },
            replace=True,
        )


def rehearse(job: Job, base: Base) -> None:
    """Save a random adapter of this job, serve it, and compare, so that an hour of training is not in vain.

    Raises TrainingError where it would be served otherwise than trained, or what attaching it raises.
    """
    adaptation = adapt(base, job.task, job.labels, job.method, job.adapter)
    try:
        model, config = adaptation.model, adaptation.model.active_peft_config
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += _NUDGE * torch.randn_like(parameter)
        rows = _rehearsed_rows(job, base.dtype)
        trained, tensors = compared_outputs(job, base, model, rows), adaptation.tensors()
    finally:
        adaptation.release()
    adapted = AdaptedBase(base)
    with tempfile.TemporaryDirectory(prefix="adapthub-rehearsal-") as folder:
        manifest, target = manifest_of(job, base, {}), Path(folder) / "adapter"
        artifact = write_artifact(target, config=config, tensors=tensors, manifest=manifest, card="")
        try:
            compare(adapted, adapted.attach(artifact), job, rows, trained, "nothing was trained")
        finally:
            adapted.close()


def compare(
    adapted: AdaptedBase,
    digest: str,
    job: Job,
    rows: Sequence[Row],
    trained: Sequence[NDArray[Any]],
    consequence: str,
) -> None:
    """Served logits or losses of `rows` are those of the `trained` model. Raises TrainingError."""
    served = served_outputs(job.recipe, adapted, digest, rows, job.encoding, batch_size=_COMPARED_ROWS)
    largest = max(float(np.abs(row).max(initial=0)) for row in trained)
    pairs = zip(served, trained, strict=True)
    # numpy's: what is no number in any row stays so, and is refused.
    apart = np.max([np.abs(ours - theirs).max(initial=0) for ours, theirs in pairs])
    difference = float(apart) / max(largest, 1e-12)
    what = "logits" if job.labels else "losses"
    if not difference <= _TOLERANCES[adapted.base.dtype]:
        raise TrainingError(
            f"a {job.method} adapter on {job.base.ref} is not served as it is trained: {what} differ by"
            f" {difference:.1e} of the largest; {consequence}",
            hint="Report the base, the method and its settings.",
        )


def compared_outputs(job: Job, base: Base, model: PeftModel, rows: Sequence[Row]) -> list[NDArray[Any]]:
    """What the PEFT model says of a few rows: unpadded logits, or losses."""
    collate = job.recipe.collator(job.processor)
    return trained_outputs(job.recipe, base, model, rows, collate, job.encoding)


def compared_rows(job: Job) -> Sequence[Row]:
    """Those that a run's end is proven by, of what was not trained on where there is such."""
    split = next(
        (job.splits[name] for name in ("test", "validation") if name in job.splits), job.splits["train"]
    )
    return split.some(_COMPARED_ROWS).encoded.rows


def manifest_of(
    job: Job,
    base: Base,
    metrics: Mapping[str, Mapping[str, Estimate]],
    groups: Mapping[str, int] = MappingProxyType({}),
    processes: int = 1,
    chosen: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """What is recorded of a job, with the names of its data files but not where they lie. `groups`: of how many the rows of
    a split are, where its intervals are of groups; `chosen`: settings that the end of training gave."""
    return Manifest(
        task=job.task,
        labels=job.labels or None,
        base=BaseRecord(id=base.ref, revision=base.revision, fingerprint=base.fingerprint),
        quantization=base.quantization,
        recipe=job.recipe.name,
        method=job.method,
        hyperparameters={**job.hyperparameters, **chosen},
        seed=job.seed,
        data={
            name: DataRecord(
                fingerprint=split.dataset.fingerprint,
                rows=len(split.dataset),
                source=Path(split.dataset.source).name,
                groups=groups.get(name),
            )
            for name, split in job.splits.items()
        },
        metrics={
            split: {name: Metric(**vars(estimate)) for name, estimate in estimates.items()}
            for split, estimates in metrics.items()
        },
        libraries=libraries(),
        hardware={**hardware(base.device, processes), "dtype": str(base.dtype).removeprefix("torch.")},
        parents=[job.parent.name] if job.parent else [],
    )


def _rehearsed_rows(job: Job, dtype: torch.dtype) -> Sequence[Row]:
    """The shortest of as many: a way of serving that differs does so on any row that something is asked of. All of them in
    coarser numbers than float32: of a few rows the largest value is too near to what is lost by rounding (5.9 % of it with
    IA3 on SmolLM2-135M in bfloat16, 2.3 % of 16 rows')."""
    taught = job.taught
    spread = np.unique(np.linspace(0, len(taught) - 1, _COMPARED_ROWS, dtype=np.int64))
    count = _REHEARSED_ROWS if dtype == torch.float32 else _COMPARED_ROWS
    shortest = lengths_of(taught)[spread].argsort(kind="stable")[:count]
    return [taught[int(at)] for at in spread[shortest]]


def _plain(metrics: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, dict[str, float]]]:
    return {split: {name: vars(value) for name, value in found.items()} for split, found in metrics.items()}
