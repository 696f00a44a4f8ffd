"""What binding has in common for every method: names of modules, heads, and modules that an adapter brings whole; and for
the methods that act on targeted modules, what their configuration targets.

`binding` chooses the method's binder. Changes no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapthub.adapters.delta import Replacement, Update
from adapthub.adapters.errors import BaseMismatch, TensorMismatch, UnsupportedAdapter
from adapthub.adapters.flat import Prefix
from adapthub.adapters.heads import TASKS_WITH_HEADS
from adapthub.adapters.layers import takes_lora, twin
from adapthub.adapters.names import Saved, module_path
from adapthub.adapters.processors import takes_pictures
from adapthub.adapters.served_heads import Head, Heads
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.base import Base


@dataclass(frozen=True)
class Binding:
    """One adapter, ready for one base: what it adds to which module, its head, its prefix.

    `updates` maps names of modules of `base.model` to additive updates. Everything is on the base's device. `alone`: what
    it adds holds only where no other adapter runs in the same row.
    """

    digest: str
    task: str | None
    labels: tuple[str, ...] | None
    updates: Mapping[str, tuple[Update, ...]]
    head: Head | None
    prefix: Prefix | None
    alone: bool = False


class Binder:
    """What the binders of every method share: names of modules, the head, and modules that an adapter brings whole."""

    def __init__(
        self, artifact: Artifact, base: Base, modules: Mapping[str, nn.Module], heads: Heads
    ) -> None:
        self.artifact = artifact
        self.base = base
        self.modules = modules
        self.heads = heads
        self.inside = _backbone_path(base)
        self.prefix = base.model.base_model_prefix
        self.saved = tuple(artifact.config.get("modules_to_save") or ())
        self.task = artifact.task
        if self.task is None and self.saved and takes_pictures(base.model.config):
            self.task = IMAGE_CLASSIFICATION  # PEFT has no name for it
        self.updates: dict[str, list[Update]] = {}
        self.replaced: dict[str, dict[str, torch.Tensor]] = {}
        self.head_tensors: dict[str, torch.Tensor] = {}

    def _bind_whole(self, name: str, tensor: torch.Tensor) -> bool:
        """Put a tensor of the head, or of a module in modules_to_save, aside; False for any other."""
        owner, _, parameter = name.rpartition(".")
        path = self._path(owner)
        # timm's classifier has its place in the base, which is loaded without it.
        if path is None or isinstance(self.modules[path], nn.Identity):
            self.head_tensors[name] = tensor
        elif self._is_saved(owner):
            self.replaced.setdefault(path, {})[parameter] = tensor
        else:
            return False
        return True

    def _is_saved(self, name: str) -> bool:
        """Whether modules_to_save names this module of the task model, or one around it."""
        return name in Saved(self.saved)

    def _finish(self, prefix: Prefix | None = None, *, alone: bool = False) -> Binding:
        for path, state in self.replaced.items():
            self._add(path, Replacement(twin(self.modules[path], state, path, self.base)))
        head = self._head()
        self._check_targets(head)
        self._check_saved(head)
        if head and head.uses_pooler and "pooler" in self.base.uninitialised and "pooler" not in self.saved:
            raise BaseMismatch(
                f"the head reads the pooler, and neither {self.base.ref} nor the adapter has weights for it",
                hint="Train with the pooler in modules_to_save.",
            )
        updates = {path: tuple(group) for path, group in self.updates.items()}
        return Binding(self.artifact.digest, self.task, self.artifact.labels, updates, head, prefix, alone)

    def _head(self) -> Head | None:
        tensors, labels = self.head_tensors, self.artifact.labels
        if self.task not in TASKS_WITH_HEADS:
            if tensors:
                raise TensorMismatch(f"the adapter has a tensor {next(iter(tensors))!r} that nothing uses")
            return None
        head = self.heads.make(self.task, tensors)
        if labels is not None and len(labels) != head.labels:
            raise TensorMismatch(f"the manifest names {len(labels)} labels; the head has {head.labels}")
        return head

    def _check_targets(self, head: Head | None) -> None:
        """Every module that the method should act on has its weights."""

    def _check_saved(self, head: Head | None) -> None:
        """Every module that PEFT would replace has its weights."""
        for path, module in self.modules.items():
            # PEFT compares the ends of names, dots or not.
            if not self._task_name(path).endswith(self.saved) or not self._is_used(path, head):
                continue
            for parameter, _ in module.named_parameters(prefix=path):
                owner, _, name = parameter.rpartition(".")
                if name not in self.replaced.get(owner, {}):
                    raise TensorMismatch(
                        f"modules_to_save names {self._task_name(path)!r}, and the adapter lacks its {name}"
                    )

    def _is_used(self, path: str, head: Head | None) -> bool:
        """Whether the task model has the base's module `path`: not a pooler or a language-model head it lacks."""
        if head is not None and self.inside and not path.startswith(f"{self.inside}."):
            return False
        inner = path.removeprefix(f"{self.inside}.") if self.inside else path
        return inner.split(".")[0] != "pooler" or (head is not None and head.uses_pooler)

    def _path(self, name: str) -> str | None:
        """The base's own name of the task model's module `name`; None for a module outside the base."""
        return module_path(name, self.modules, prefix=self.prefix, inside=self.inside)

    def _task_name(self, path: str) -> str:
        """The reverse of `_path` under a task model: `encoder.layer.0` becomes `bert.encoder.layer.0`."""
        if self.inside or self.task in (None, "feature-extraction"):
            return path
        return f"{self.prefix}.{path}"

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.artifact.placed(tensor, self.base.device, self.base.dtype)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors by PEFT's key. Raises TensorMismatch for one with a value that is not finite."""
        tensors = self.artifact.tensors()
        for key, tensor in tensors.items():
            # The sum reads each value once; it alone may also overflow.
            if not math.isfinite(tensor.sum(dtype=torch.float32)) and not tensor.isfinite().all():
                raise TensorMismatch(
                    f"the adapter's tensor {key!r} has values that are not finite", hint="Train it again."
                )
        return tensors

    def _add(self, path: str, update: Update) -> None:
        parent = self.modules.get(path.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            raise UnsupportedAdapter(
                f"{path!r} is not computed by itself: torch's MultiheadAttention only reads its weight, so an adapter "
                "under it would do nothing"
            )
        self.updates.setdefault(path, []).append(update)


class TargetBinder(Binder):
    """What the binders of methods that act on targeted modules share: `config` is PEFT's own, and says which they are."""

    kind: ClassVar[str]

    def __init__(
        self,
        artifact: Artifact,
        base: Base,
        modules: Mapping[str, nn.Module],
        heads: Heads,
        config: Callable[..., Any],
    ) -> None:
        super().__init__(artifact, base, modules, heads)
        self.config = config(**{k: v for k, v in artifact.config.items() if k != "peft_version"})
        self.output = base.model.get_output_embeddings()
        if not self.config.target_modules:
            raise UnsupportedAdapter(
                "adapter_config.json has no target_modules, so it does not say what it adapts",
                hint="Save the adapter again with PEFT, which writes them.",
            )

    def _target(self, name: str) -> str:
        """The base's name of a module that the adapter has weights for; it is targeted, and was not bound before."""
        path = self._path(name)
        if path is None:
            raise TensorMismatch(
                f"{self.base.ref} has no module {name!r}, which the adapter has {self.kind} weights for"
            )
        if not self._targets(name, self.modules[path]):
            raise TensorMismatch(
                f"the adapter has {self.kind} weights for {name!r}, which its configuration does not target"
            )
        if path in self.updates:
            raise TensorMismatch(f"the adapter has {self.kind} weights for {path!r} under two names")
        return path

    def _bind_other(self, name: str, tensor: torch.Tensor) -> None:
        """A tensor that is not the method's own: of a head, of modules_to_save, or a copy of the base's."""
        owner, _, parameter = name.rpartition(".")
        owner = owner.removesuffix(".base_layer")
        if self._bind_whole(f"{owner}.{parameter}", tensor):
            return
        if not self._is_copy(cast(str, self._path(owner)), parameter, name, tensor):
            raise TensorMismatch(f"the adapter has a tensor {name!r} that nothing uses")

    def _is_copy(self, path: str, parameter: str, name: str, tensor: torch.Tensor) -> bool:
        """PEFT saves embeddings whole beside their adapter, the output's too. They must be the base's own."""
        module = self.modules[path]
        own = getattr(module, parameter, None)
        if not isinstance(own, torch.Tensor) or not (
            isinstance(module, nn.Embedding) or module is self.output
        ):
            return False
        if tensor.shape != own.shape or not torch.equal(tensor.to(own.dtype), own.cpu()):
            raise UnsupportedAdapter(
                f"{name!r} differs from the base model's embedding: it was resized or trained whole",
                hint="Train LoRA on the embedding, or list it in modules_to_save.",
            )
        return True

    def _check_targets(self, head: Head | None) -> None:
        """Every module that PEFT would target has its weights."""
        for path, module in self.modules.items():
            if takes_lora(module) and path not in self.updates and self._is_used(path, head):
                name = self._task_name(path)
                if self._targets(name, module):
                    raise TensorMismatch(f"the adapter targets {name!r} and has no weights for it")

    def _targets(self, name: str, module: nn.Module) -> bool:
        """Whether the configuration targets the task model's module `name`."""
        from peft.tuners.tuners_utils import check_target_module_exists

        if self.config.target_modules == "all-linear":  # PEFT writes what it stands for; others do not
            return isinstance(module, (nn.Linear, Conv1D)) and module is not self.output
        return bool(check_target_module_exists(self.config, name))


def _backbone_path(base: Base) -> str:
    """The backbone's name inside `base.model`; empty where it is the model itself."""
    return "" if base.backbone is base.model else str(base.model.base_model_prefix)
