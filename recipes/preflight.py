"""What is checked before the first step, so that a run that cannot work ends in seconds, not at its end.

Each function raises one clear error or returns; those that return text return a line worth showing. Columns,
labels and sequences are checked by the recipe, gradients by the adaptation in the first two steps.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapthub.adapters.errors import (
    Conflict,
    InvalidData,
    InvalidReference,
    InvalidSettings,
    StorageError,
    TrainingError,
)
from adapthub.hub.reference import Reference
from adapthub.recipes.processes import Processes
from adapthub.recipes.recipe import EmbeddingRecipe, Encoded, PreferringRecipe, Recipe, Unsaid
from adapthub.recipes.served import logits_of
from adapthub.recipes.taught import untaught

if TYPE_CHECKING:
    from peft import PeftModel

    from adapthub.adapters.base import ResolvedBase
    from adapthub.hub.registry import Registry
    from adapthub.recipes.data.dataset import Dataset

_RELOADED = "preflight"
_PERTURBATION = 0.05
_TOLERANCE = 1e-5
_OPTIMISER_COPIES = 3  # a checkpoint holds the trainable weights and AdamW's two moments


def check_supervision(splits: Mapping[str, Encoded]) -> list[str]:
    """Every split has a target the loss sees, also after truncation; a line for each that loses some.

    Raises InvalidData naming the split.
    """
    lines = []
    for split, encoded in splits.items():
        if encoded.supervised == 0:
            raise InvalidData(
                f"{split}: none of its {encoded.targets} labels is left after truncation",
                hint="Raise max_length.",
            )
        lost = encoded.targets - encoded.supervised
        if lost and not encoded.truncated:
            lines.append(
                f"{split}: the base has no token for {lost} of {encoded.targets} labels, which are left out"
            )
        elif encoded.truncated:
            cut = f"{split}: max_length cuts {encoded.truncated} of {len(encoded.rows)} rows"
            lines.append(f"{cut}; labels not seen: {lost} of {encoded.targets}")
        if nothing := untaught(encoded):
            none = f"{split}: {len(nothing)} of {len(encoded.rows)} rows have no label left"
            lines.append(f"{none}, so nothing is learnt of them" if split == "train" else none)
    return lines


def never_written(
    recipe: Recipe,
    processor: Any,
    base: ResolvedBase,
    datasets: Mapping[str, Dataset],
    encoding: Mapping[str, Any],
) -> list[str]:
    """A line for each split whose rows teach what the base's generation suppresses."""
    if not isinstance(recipe, Unsaid):
        return []
    said = {name: recipe.unsaid(processor, base, dataset, encoding) for name, dataset in datasets.items()}
    return [f"{name}: {what}" for name, what in said.items() if what]


def check_head(model: torch.nn.Module, batch: Mapping[str, torch.Tensor], labels: Sequence[str]) -> None:
    """The model's logits are finite and have one column a label, if there are labels. Raises TrainingError."""
    logits = _logits(model, batch)
    if labels and logits.shape[-1] != len(labels):
        raise TrainingError(
            f"the head has {logits.shape[-1]} outputs for {len(labels)} labels",
            hint="Build the head from the labels of the training split.",
        )
    if not torch.isfinite(logits).all():
        raise TrainingError(
            "the model's outputs are not finite before training",
            hint="Load the base in float32 or bfloat16, or with another quantisation.",
        )


def check_optimizer(optimizer: str, device: torch.device) -> None:
    """A paged optimiser moves between a GPU and its host. Raises InvalidSettings without one."""
    if optimizer.startswith("paged") and device.type != "cuda":
        raise InvalidSettings(
            f"optimizer={optimizer} needs a GPU; this run is on the {device.type}",
            hint=f"Use {optimizer.removeprefix('paged-')}.",
        )


def check_shares(recipe: Recipe, batch_size: int, processes: Processes, *, loaded: bool) -> None:
    """Whether several processes can train this, each on its share of a batch; `loaded`: the base is the caller's own.

    Raises InvalidSettings.
    """
    if processes.count == 1:
        return
    if isinstance(recipe, (EmbeddingRecipe, PreferringRecipe)):
        raise InvalidSettings(
            f"{recipe.name} compares rows of a batch with each other, which cannot be shared out",
            hint="Train it in one process.",
        )
    if batch_size < processes.count:
        raise InvalidSettings(
            f"batch_size={batch_size} is less than the {processes.count} processes that share it",
            hint=f"Set it to at least {processes.count}; it counts the rows of all of them.",
        )
    if processes.shards and loaded:
        raise InvalidSettings(
            "a base that is loaded already cannot be cut into parts", hint="Give its name instead."
        )


def check_disk(folder: Path, trainable_bytes: int, checkpoints: int) -> str:
    """Room for `checkpoints` checkpoints (weights and optimiser) and the artifact. Raises StorageError."""
    needed = trainable_bytes * (_OPTIMISER_COPIES * checkpoints + 1)
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StorageError(
            f"{existing} has {_megabytes(free)} free; this run writes about {_megabytes(needed)}",
            hint="Free some space, keep fewer checkpoints, or choose another output folder.",
        )
    return f"disk: about {_megabytes(needed)} of {_megabytes(free)} free"


def check_name(name: str, task: str, hub: Registry) -> str:
    """`name` can be published, by whoever asks: a plain namespace/name that is new, or whose adapter is for the same task.

    Raises InvalidReference, Unauthorized, Forbidden, Unreachable for a hub that does not answer, and Conflict where the name
    belongs to an adapter for another task.
    """
    reference = Reference.parse(name)
    if reference.revision is not None:
        raise InvalidReference(
            f"{name!r} names a version, and a new one is to be made",
            hint=f"Publish as {reference.namespace}/{reference.name}; set the alias when pushing.",
        )
    hub.check_may_push(reference)
    if hub.available(reference):
        return f"name: {name} is new"
    details = hub.show(reference)
    if details.facts.task not in (None, task):
        raise Conflict(
            f"{name} is taken by an adapter for {details.facts.task}; this run trains {task}",
            hint="Choose another name.",
        )
    return f"name: {name} exists; this run becomes v{details.version.number + 1}"


def check_reload(model: PeftModel, batch: Mapping[str, torch.Tensor]) -> float:
    """Save the adapter, load it again with plain PEFT under a second name, and compare logits on `batch`.

    A fresh adapter is the identity and would agree with anything, so its weights are moved at random first;
    they, the random state and the training mode are as before afterwards. Returns the largest difference,
    relative to the largest logit. Raises TrainingError where it exceeds 1e-5.
    """
    active = model.active_adapter
    with _as_before(model), tempfile.TemporaryDirectory(prefix="adapthub-preflight-") as folder:
        _perturb(model)
        live = _logits(model, batch)
        model.save_pretrained(folder, save_embedding_layers=False)
        model.load_adapter(folder, adapter_name=_RELOADED, torch_device=str(live.device))
        try:
            model.set_adapter(_RELOADED)
            reloaded = _logits(model, batch)
        finally:
            model.set_adapter(active)
            model.delete_adapter(_RELOADED)
    difference = float((live - reloaded).abs().max() / live.abs().max().clamp_min(1e-12))
    if not difference <= _TOLERANCE:
        raise TrainingError(
            f"saved and loaded again, the adapter gives other logits: {difference:.1e} relative",
            hint="Part of what is trained is not in its files; report the method, its settings and the base.",
        )
    return difference


def _perturb(model: PeftModel) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(noise.to(parameter), alpha=_PERTURBATION)


@contextmanager
def _as_before(model: PeftModel) -> Iterator[None]:
    """Restore trainable values, what is trainable, training modes and the random state at the end."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    values = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    devices = sorted({parameter.device.index for parameter in model.parameters() if parameter.is_cuda})
    with torch.random.fork_rng(devices=devices), _evaluating(model):
        try:
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in trainable)
                if name in values:
                    parameter.data.copy_(values[name])


def _logits(model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """Logits in float32, without dropout."""
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
    with _evaluating(model), torch.no_grad():
        return logits_of(model, inputs)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
