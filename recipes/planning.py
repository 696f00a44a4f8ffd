"""`plan`: what `train` with the same arguments would do, without doing it.

The resolved run, its size, a rough estimate of memory, why each default is what it is, and three examples as
the model will see them. Reads data and the base's configuration; loads no weights, writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel

from adapthub.adapters.base import Base, ResolvedBase
from adapthub.adapters.methods import find_method
from adapthub.adapters.weights import loaded_bytes, read_headers
from adapthub.recipes.adaptation import Adaptation, adapt
from adapthub.recipes.job import Job, prepare
from adapthub.recipes.preflight import check_supervision

if TYPE_CHECKING:
    from adapthub.recipes.recipe import Preview

_PREVIEWS = 3
_FLOAT = 4  # bytes: adapters train in float32, and so do the CPU's activations
_TRAINING_COPIES = 4  # weights, gradients, AdamW's two moments
# Values that a transformer layer keeps for backward: for each token 17 hidden states, and 2.5 attention rows
# a head (Korthikanti et al., arXiv 2205.05198, table 2: their bytes, halved).
_HIDDEN_VALUES = 17
_ATTENTION_VALUES = 2.5


@dataclass(frozen=True)
class Plan:
    """A run that has not begun. Sizes are bytes; `memory` is a rough estimate of the peak.

    `settings`: every hyperparameter with its value. `reasons`: of settings left at their default, why.
    `supervision`: a line a split. `previews`: examples, one tuple a sub-token.
    """

    task: str
    method: str
    base: str
    quantize: str | None
    labels: tuple[str, ...]
    settings: Mapping[str, Any]
    reasons: Mapping[str, str]
    steps: int
    eval_steps: int
    trainable: int
    parameters: int
    adapter_bytes: int
    base_bytes: int
    memory: int
    supervision: tuple[str, ...]
    previews: tuple[Preview, ...]

    @property
    def trainable_share(self) -> float:
        """Trainable parameters, head included, as a share of the base's."""
        return self.trainable / self.parameters


def plan(
    task: str,
    data: str | Path | Any,
    *,
    base: str,
    quantize: str | None = None,
    method: str = "lora",
    validation: str | Path | Any | None = None,
    test: str | Path | Any | None = None,
    seed: int = 0,
    **settings: Any,
) -> Plan:
    """Resolve a run as `train` would. Raises what `train` raises before it loads the base."""
    job = prepare(
        task,
        data,
        base=base,
        quantize=quantize,
        method=method,
        validation=validation,
        test=test,
        seed=seed,
        given=settings,
    )
    supervision = check_supervision({name: split.encoded for name, split in job.splits.items()})
    adaptation, parameters = _skeleton(job)
    weights = loaded_bytes(read_headers(job.base.path), _FLOAT, quantize)
    train = job.splits["train"]
    previews = [
        job.recipe.preview(job.tokenizer, train.dataset, train.encoded, job.labels, at)
        for at in range(min(_PREVIEWS, len(train.dataset)))
    ]
    return Plan(
        task=job.recipe.name,
        method=method,
        base=job.base.ref,
        quantize=quantize,
        labels=job.labels,
        settings=job.hyperparameters,
        reasons=_reasons(job, settings),
        steps=job.steps,
        eval_steps=job.settings.steps_between_evaluations(job.rows),
        trainable=adaptation.trainable,
        parameters=parameters,
        adapter_bytes=adaptation.bytes,
        base_bytes=weights,
        memory=weights + _TRAINING_COPIES * _FLOAT * adaptation.trainable + _activation_bytes(job),
        supervision=tuple(supervision),
        previews=tuple(previews),
    )


def _skeleton(job: Job) -> tuple[Adaptation, int]:
    """The model that would be trained, without memory behind it, and how many parameters its base has."""
    with torch.device("meta"):
        model = AutoModel.from_config(job.base.config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    adaptation = adapt(_on_meta(job.base, model), job.task, job.labels, job.method, job.adapter)
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


def _activation_bytes(job: Job) -> int:
    """What backward needs of the longest batch; 0 for a configuration that does not say its sizes."""
    config = job.base.config
    layers = getattr(config, "num_hidden_layers", 0)
    hidden = getattr(config, "hidden_size", 0)
    heads = getattr(config, "num_attention_heads", 0)
    longest = max(len(row["input_ids"]) for row in job.splits["train"].encoded.rows)
    values = _HIDDEN_VALUES * hidden + _ATTENTION_VALUES * heads * longest
    return int(job.settings.batch_size * longest * layers * values * _FLOAT)


def _reasons(job: Job, given: Mapping[str, Any]) -> dict[str, str]:
    """Why the method's settings are what they are, where nobody chose them."""
    defaults = find_method(job.method).defaults(job.task)
    return {name: default.reason for name, default in defaults.items() if given.get(name) is None}
