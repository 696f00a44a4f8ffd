"""Warm start: the published adapter that a run goes on from, and what of it the run takes over.

The method, its settings and every weight of the backbone are the parent's; the head too where the labels are equal, else it
is drawn anew and that is said. The base must be the very one that the parent was trained on. Does not train; how a parent
is written into a manifest is hub/lineage's rule.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import BaseMismatch, InvalidReference, InvalidSettings, TensorMismatch
from adapthub.adapters.methods import find_method
from adapthub.adapters.pooling import MEAN
from adapthub.hub.lineage import parent_of
from adapthub.hub.reference import Reference

if TYPE_CHECKING:
    from adapthub.adapters.base import ResolvedBase
    from adapthub.adapters.manifest import Manifest
    from adapthub.adapters.tasks import Task
    from adapthub.hub.registry import Registry
    from adapthub.recipes.adaptation import Adaptation

_UNPUBLISHED = "unpublished"
_ASKED = ("prompt", "template", "system", "language", "query_prefix", "passage_prefix", "pooling")
_UNSAID = {"pooling": MEAN}  # what adapters from before it was recorded were trained with


@dataclass(frozen=True)
class Parent:
    """An adapter to go on from. `name`: as manifests name it, pinned by its digest; `source`: where it is found again, a
    pinned reference or a folder.
    """

    artifact: Artifact
    name: str
    source: str

    @property
    def manifest(self) -> Manifest:
        manifest = self.artifact.manifest
        assert manifest is not None  # find_parent refuses others
        return manifest

    def settings(self, task: Task, method: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` with the parent's settings of its method.

        Raises InvalidSettings for another task or method, and for a setting of the method that was given otherwise.
        """
        manifest = self.manifest
        if manifest.task != task:
            raise InvalidSettings(
                f"{self.name} is an adapter for {manifest.task}, and this run trains {task}",
                hint="Start from an adapter for the same task.",
            )
        defaults = find_method(manifest.method).defaults(task)
        if method not in (None, manifest.method):
            raise self._fixed("method", method, manifest.method)
        settings = {name: default.value for name, default in defaults.items()}
        settings |= {
            name: manifest.hyperparameters[name] for name in defaults if name in manifest.hyperparameters
        }
        for name, value in settings.items():
            if given.get(name) is not None and not _equal(given[name], value):
                raise self._fixed(name, given[name], value)
        return {**given, **settings}

    def asked_as(self, recipe: str, options: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` with the words that the parent was trained to be asked by, where they are not given otherwise: what goes
        on learning is asked as before. Of another recipe's adapter only the chat template."""
        names = _ASKED if self.manifest.recipe == recipe else ("template",)
        recorded = {**_UNSAID, **self.manifest.hyperparameters}
        kept = {name: recorded[name] for name in names if name in options and recorded.get(name) is not None}
        return {**given, **{name: value for name, value in kept.items() if given.get(name) is None}}

    @property
    def ranks(self) -> dict[str, Any] | None:
        """Where EVA chose layers and ranks by other data: which they are."""
        if self.manifest.hyperparameters.get("init") != "eva":
            return None
        return {
            name: self.artifact.config[name] for name in ("target_modules", "rank_pattern", "alpha_pattern")
        }

    def check_base(self, base: ResolvedBase) -> None:
        """Raises BaseMismatch, naming both, where `base` is not the one that the parent was trained on."""
        recorded = self.manifest.base
        if differences := recorded.fingerprint.difference(base.fingerprint, names=("its base", "this one")):
            raise BaseMismatch(
                f"{self.name} was trained on {recorded.id}, and this run is over {base.ref}: {'; '.join(differences)}",
                hint=f"Use the base {recorded.id}, or start from an adapter of {base.ref}.",
            )

    def has_head_of(self, labels: Sequence[str]) -> bool:
        """Whether its head answers with these labels, in this order."""
        return tuple(self.manifest.labels or ()) == tuple(labels)

    def notes(self, labels: Sequence[str]) -> Iterator[str]:
        """What is worth saying: that the head is not the parent's."""
        if not self.has_head_of(labels):
            theirs = ", ".join(self.manifest.labels or ()) or "none"
            yield (
                f"start: {self.name} has the labels {theirs}; the data has {', '.join(labels)}, so the head is drawn anew"
            )

    def take_over(self, adaptation: Adaptation, labels: Sequence[str]) -> None:
        """Put the parent's weights into a fresh adaptation of the same method and settings.

        Raises TensorMismatch where the two do not have the same tensors, the head apart if it is drawn anew.
        """
        from peft import set_peft_model_state_dict

        fresh = adaptation.tensors()
        keep = self.has_head_of(labels)
        head = adaptation.task_head
        taken = {
            name: tensor
            for name, tensor in self.artifact.tensors().items()
            if keep or not head.intersection(name.split("."))
        }
        wanted = {name for name in fresh if keep or not head.intersection(name.split("."))}
        for name in sorted(wanted | taken.keys()):
            ours, theirs = _shape(fresh.get(name)), _shape(taken.get(name))
            if ours != theirs:
                raise TensorMismatch(
                    f"{self.name}: its tensor {name} is {theirs or 'missing'}, and this run needs {ours or 'none'}",
                    hint="Start from an adapter that AdaptHub trained with this method and this base.",
                )
        set_peft_model_state_dict(adaptation.model, {**fresh, **taken})

    def _fixed(self, setting: str, given: Any, value: Any) -> InvalidSettings:
        return InvalidSettings(
            f"{setting}={given!r} is not what {self.name} was trained with, {value!r}",
            hint="What goes on from an adapter keeps its method and its settings; leave it out, or train anew.",
        )


def find_parent(
    given: Parent | Artifact | str | Path | None, hub: Registry | str | None = None
) -> Parent | None:
    """The adapter of that name on a hub, or in that folder; None where none is given.

    Raises InvalidSettings for one that does not say what it was trained on and how, and what finding and reading raise.
    """
    if given is None or isinstance(given, Parent):
        return given
    if isinstance(given, str) and not _is_folder(given):
        parent = _pulled(given, hub)
    else:
        artifact = given if isinstance(given, Artifact) else Artifact.read(given)
        parent = Parent(artifact, _unpublished(artifact), str(artifact.path.absolute()))
    if parent.artifact.manifest is None:
        raise InvalidSettings(
            f"{parent.name} does not say which base it was trained on, or how: it has no adapthub.json",
            hint="Start from an adapter that AdaptHub trained.",
        )
    return parent


def base_of(parent: Parent | None, quantize: str | None) -> tuple[str | None, str | None]:
    """The base where none is named: the parent's, held as it was when that was trained unless `quantize` says otherwise;
    without a parent None, as the data will say."""
    if parent is None:
        return None, quantize
    return parent.manifest.base.id, quantize or parent.manifest.quantization


def _is_folder(word: str) -> bool:
    return Path(word).exists() or word.startswith(("/", "./", "../"))


def _pulled(name: str, hub: Registry | str | None) -> Parent:
    from adapthub.hub import open_hub

    registry = open_hub(hub) if hub is None or isinstance(hub, str) else hub
    version = registry.resolve(name)
    pinned = parent_of(version)
    return Parent(registry.pull(pinned), pinned, pinned)


def _unpublished(artifact: Artifact) -> str:
    """A folder's name in the form of a reference: lineage finds the version by the digest if it is published later."""
    path = artifact.path.absolute()
    called = path.parent.name if path.name == "adapter" else path.name
    digest = artifact.digest.removeprefix("sha256:")
    try:
        return str(Reference(None, _UNPUBLISHED, re.sub(r"[^A-Za-z0-9_]+", "-", called).strip("-"), digest))
    except InvalidReference:
        return f"{_UNPUBLISHED}/adapter@{digest}"


def _equal(given: Any, value: Any) -> bool:
    """As JSON has them: a tuple is a list."""
    return bool((list(given) if isinstance(given, tuple) else given) == value)


def _shape(tensor: Any) -> list[int] | None:
    return None if tensor is None else list(tensor.shape)
