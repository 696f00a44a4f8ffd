"""`plan`: what `train` with the same arguments would do, without doing it.

The resolved run and its splits, its size, a rough estimate of memory, why each default is what it is, and three
examples as the model will see them; and if the first steps are tried (trial), what memory and time it takes. Itself reads
data and the base's configuration and loads no weights; writes nothing but what it read (prepared).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from adapthub.adapters.base import Base, ResolvedBase, skeleton_of
from adapthub.adapters.errors import AdaptHubError
from adapthub.adapters.memory import free_memory
from adapthub.adapters.methods import find_method
from adapthub.adapters.placement import choose_device, choose_dtype
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION
from adapthub.adapters.weights import loaded_bytes, read_headers
from adapthub.recipes import answered
from adapthub.recipes.activations import activation_bytes, cast_bytes
from adapthub.recipes.adaptation import Adaptation, adapt, precision
from adapthub.recipes.job import Job, Split, prepare
from adapthub.recipes.parts import PASS_TOKENS
from adapthub.recipes.preflight import check_optimizer
from adapthub.recipes.ranks import follows_data, why_by_data
from adapthub.recipes.recipe import GeneratingRecipe, PreferringRecipe, lengths_of
from adapthub.recipes.settings import REASONS
from adapthub.recipes.warm_start import Parent, base_of, find_parent
from adapthub.recipes.widths import WIDTH, why_by_width

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapthub.adapters.artifact import Artifact
    from adapthub.recipes.recipe import Preview
    from adapthub.recipes.trial import Trial

_SAMPLES = 3
_FLOAT, _HALF = 4, 2  # bytes: adapters train in float32
_TRAINING_COPIES = 4  # weights, gradients, AdamW's two moments


@dataclass(frozen=True)
class PlannedSplit:
    """One split: `targets` counts the labels in the data, `supervised` those that are seen after truncation,
    `truncated` the rows that are cut.

    `lengths`: tokens of a row, cut as they are learnt: its "median", "p95" and "longest"; {} where rows have none.
    `classes`: how many rows have each label, the most frequent first; {} where there are none.
    """

    split: str
    source: str
    rows: int
    targets: int
    supervised: int
    truncated: int
    lengths: Mapping[str, int]
    classes: Mapping[str, int]


@dataclass(frozen=True)
class _Activations:
    """What backward needs, in bytes: `fixed` whatever the batch (the base's weights in half precision), and `each` for each
    token, or each picture. The longest row has `row` of these, and `at_once` are computed at once."""

    fixed: int
    each: int
    row: int
    at_once: int

    @property
    def bytes(self) -> int:
        return self.fixed + self.each * self.at_once

    def largest(self, room: int, batch_size: int) -> int:
        """Rows of a batch that fit into `room` bytes beside what is `fixed`: at most `batch_size`, below 1 if none do."""
        fitting = room // max(1, self.each)
        return batch_size if fitting >= self.at_once else fitting // self.row


@dataclass(frozen=True)
class Plan:
    """A run that has not begun. Sizes are bytes; `estimated_memory` is a rough estimate of the peak; `trial`: what was found
    by trying the first steps, None where they were not or cannot be.

    `settings`: every hyperparameter with its value. `reasons`: of settings left at their default, why.
    `eval_steps`: from one evaluation to the next, None without a validation split. `trainable`: parameters,
    head included; `parameters`: those of the base; `base_bytes`: as it is loaded. `notes`: see Job.
    `samples`: examples spread over the training split, one tuple a sub-token.
    """

    task: str
    method: str
    base: str
    base_fingerprint: str
    quantize: str | None
    seed: int
    labels: tuple[str, ...]
    steps: int
    eval_steps: int | None
    trainable: int
    parameters: int
    trainable_share: float
    adapter_bytes: int
    base_bytes: int
    adapter_share: float
    estimated_memory: int
    settings: Mapping[str, Any]
    reasons: Mapping[str, str]
    splits: tuple[PlannedSplit, ...]
    notes: tuple[str, ...]
    samples: tuple[Preview, ...]
    trial: Trial | None


def plan(
    task: str,
    data: str | Path | Any,
    *,
    base: str | None = None,
    quantize: str | None = None,
    start: Parent | Artifact | str | Path | None = None,
    method: str | None = None,
    validation: str | Path | Any | Literal[False] | None = None,
    test: str | Path | Any | None = None,
    seed: int = 0,
    device: str = "auto",
    try_steps: bool = False,
    report: Callable[[str], None] | None = None,
    **settings: Any,
) -> Plan:
    """Resolve a run as `train` would, on `device` as `load_base` chooses it. With `try_steps` its first steps are tried in
    another process; why that cannot be is a note. `report` is told of a base that is fetched. Raises what `train` raises
    before it loads one."""
    parent = find_parent(start)
    if base is None:
        base, quantize = base_of(parent, quantize)
    arguments: dict[str, Any] = {
        "task": task,
        "data": data,
        "base": base,
        "quantize": quantize,
        "method": method,
        "validation": validation,
        "test": test,
        "seed": seed,
        "given": settings,
        "parent": parent,
    }
    job = prepare(**arguments, report=report)
    where = choose_device(device)
    check_optimizer(job.settings.optimizer, where)
    dtype = choose_dtype("auto", where)
    job = job.computing_in(precision(job.settings.precision, where, dtype))
    adaptation, parameters = _skeleton(job)
    number = dtype.itemsize
    weights = loaded_bytes(read_headers(job.base.path), number, quantize)
    evaluates = "validation" in job.splits
    trial, why_not = _trial({**arguments, "base": job.base.ref}, device) if try_steps else (None, ())
    learned = _TRAINING_COPIES * _FLOAT * adaptation.trainable
    activations = _activations(job, adaptation, where, number)
    # What was tried and did not run out of memory fits.
    beyond = () if trial else tuple(_beyond(job, number, weights, learned, activations, free_memory(where)))
    return Plan(
        task=job.recipe.name,
        method=job.method,
        base=job.base.ref,
        base_fingerprint=job.base.fingerprint.digest,
        quantize=quantize,
        seed=seed,
        labels=job.labels,
        steps=job.steps,
        eval_steps=job.settings.steps_between_evaluations(job.rows) if evaluates else None,
        trainable=adaptation.trainable,
        parameters=parameters,
        trainable_share=adaptation.trainable / parameters,
        adapter_bytes=adaptation.bytes,
        base_bytes=weights,
        adapter_share=adaptation.bytes / weights,
        estimated_memory=weights + learned + activations.bytes,
        settings=job.hyperparameters,
        reasons=_reasons(job, settings),
        splits=tuple(_split(job, name, split) for name, split in job.splits.items()),
        notes=(*job.notes, *why_not, *beyond),
        samples=_samples(job),
        trial=trial,
    )


def _trial(arguments: Mapping[str, Any], device: str) -> tuple[Trial | None, tuple[str, ...]]:
    from adapthub.recipes.trial import try_out

    try:
        return try_out(device, **arguments), ()
    except AdaptHubError as error:
        return None, (f"memory and time are not known: {error}",)


def _split(job: Job, name: str, split: Split) -> PlannedSplit:
    encoded, lengths = split.encoded, dict[str, int]()
    if job.settings.max_length is not None:
        found = np.quantile(lengths_of(encoded.rows), (0.5, 0.95, 1), method="higher").tolist()
        lengths = dict(zip(("median", "p95", "longest"), found, strict=True))
    classes = Counter(label for example in split.dataset for label in job.recipe.labels_of(example))
    return PlannedSplit(
        split=name,
        source=split.dataset.source,
        rows=len(split.dataset),
        targets=encoded.targets,
        supervised=encoded.supervised,
        truncated=encoded.truncated,
        lengths=lengths,
        classes=dict(classes.most_common()),
    )


def _samples(job: Job) -> tuple[Preview, ...]:
    some = job.splits["train"].some(_SAMPLES)
    return tuple(
        job.recipe.preview(job.processor, some.dataset, some.encoded, job.labels, at)
        for at in range(len(some.dataset))
    )


def _skeleton(job: Job) -> tuple[Adaptation, int]:
    """The model that would be trained, without memory behind it, and how many parameters its base has."""
    model = skeleton_of(job.base.config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    adaptation = adapt(_on_meta(job.base, model), job.task, job.labels, job.method, job.adapter, job.ranks)
    return adaptation, parameters


def _on_meta(base: ResolvedBase, model: Any) -> Base:
    return Base(
        ref=base.ref,
        revision=base.revision,
        path=base.path,
        model=model.requires_grad_(False),
        tokenizer=None,
        quantization=None,
        device=torch.device("meta"),
        dtype=torch.float32,
        fingerprint=base.fingerprint,
        uninitialised=(),
    )


def _activations(job: Job, adaptation: Adaptation, device: torch.device, number: int) -> _Activations:
    """Of the longest batch, or of the largest part of it that is computed at once; `number`: the bytes of one of the base's
    that is not quantised."""
    settings, rows = job.settings, job.splits["train"].encoded.rows
    if job.task == IMAGE_CLASSIFICATION:
        size = _FLOAT if settings.precision == "fp32" else _HALF
        each = size * _outputs(adaptation, rows[0]["pixel_values"].shape)
        return _Activations(fixed=0, each=each, row=1, at_once=settings.batch_size)
    longest = int(lengths_of(rows).max())
    each = activation_bytes(
        adaptation.model, tokens=1, longest=longest, precision=settings.precision, device=device,
        recomputed=settings.gradient_checkpointing,
    )  # fmt: skip
    casts = number == _FLOAT and settings.precision != "fp32" and job.quantize is None
    return _Activations(
        fixed=cast_bytes(adaptation.model) if casts and not settings.gradient_checkpointing else 0,
        each=each,
        row=longest,
        at_once=_at_once(job, device, longest),
    )


def _at_once(job: Job, device: torch.device, longest: int) -> int:
    """Tokens of the longest batch that are computed at once: as `parts` cuts it on a CPU, where shorter rows may fill what
    the longest leave of a part."""
    rows, tokens = job.splits["train"].encoded.rows, job.settings.batch_size * longest
    if device.type != "cpu" or not {"input_ids", "labels"} <= rows[0].keys():
        return tokens
    return min(tokens, max(longest, PASS_TOKENS))


def _beyond(
    job: Job, number: int, weights: int, learned: int, activations: _Activations, free: int
) -> Iterator[str]:
    """A note where the rough estimate is beyond the bytes that are free, with what would fit; `number`: the bytes of one of
    the base's that is not quantised."""
    if (needed := weights + learned + activations.bytes) <= free:
        return
    batch_size, ways = job.settings.batch_size, []
    if (rows := activations.largest(free - weights - learned - activations.fixed, batch_size)) >= 1:
        ways.append(f"batch_size={rows}")
    if job.quantize is None and _is_quantisable(job.base.config):
        small = loaded_bytes(read_headers(job.base.path), number, "nf4")
        rows = activations.largest(free - small - learned, batch_size)  # nf4 has no weights in two precisions
        ways += (
            ["quantize='nf4'" + (f" with batch_size={rows}" if rows < batch_size else "")]
            if rows >= 1
            else []
        )
    fitting = f"{' or '.join(ways)} would fit, or a smaller base" if ways else "a smaller base would fit"
    yield f"memory: some {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; {fitting}"


def _is_quantisable(config: PretrainedConfig) -> bool:
    """Whether it is not published quantised, and has a layer that can be."""
    linear = (isinstance(module, torch.nn.Linear) for module in skeleton_of(config).modules())
    return getattr(config, "quantization_config", None) is None and any(linear)


def _outputs(adaptation: Adaptation, shape: torch.Size) -> int:
    """Values that all layers put out for one picture: about what backward keeps. By a pass without memory behind it."""
    counted: list[int] = []

    def count(_: torch.nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            counted.append(output.numel())

    layers = [module for module in adaptation.model.modules() if not any(True for _ in module.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            adaptation.model(pixel_values=torch.empty(1, *shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counted)


def _of_data(job: Job) -> dict[str, str]:
    """What the training rows say of settings."""
    encoded, settings = job.splits["train"].encoded, job.settings
    cut = (
        "no row is longer"
        if not encoded.truncated
        else f"{encoded.truncated} of {len(encoded.rows)} rows are cut"
    )
    ends = "the best step on validation is kept" if "validation" in job.splits else "the last step is kept"
    return {
        "epochs": f"{settings.steps_per_epoch(job.rows)} steps each, {job.steps} in all; {ends}",
        "max_length": f"{cut}; rows are padded no further than their batch needs",
    }


def _reasons(job: Job, given: Mapping[str, Any]) -> dict[str, str]:
    """Why settings are as they are where nobody chose them."""
    if job.parent is not None:
        given = {**given, **job.adapter}
    defaults = find_method(job.method).defaults(job.task)
    reasons = {**{name: default.reason for name, default in defaults.items()}, **REASONS, **_of_data(job)}
    if isinstance(job.recipe, GeneratingRecipe):
        reasons["eval_rows"] = (
            "a look at the validation loss takes about a quarter of the time of the steps before it, or 64 rows"
        )
    if "answered" in job.encoding:
        reasons["answered"] = answered.REASON
    own = job.recipe.defaults(find_method(job.method).learns_as)
    if isinstance(job.recipe, PreferringRecipe):
        reasons |= job.recipe.reasons(job.encoding)
    reasons |= own.reasons
    if follows_data(job.adapter, given, job.method, job.recipe):
        reasons["rank"] = why_by_data(job.adapter["rank"], job.seen, job.base.config)
    if own.follows_width:
        known = reasons.get("learning_rate", f"the recipe's, for bases {WIDTH:,} wide")
        reasons["learning_rate"] = f"{known}; {why_by_width(own.learning_rate, job.base.config)}"
    return {name: reason for name, reason in reasons.items() if given.get(name) is None}
