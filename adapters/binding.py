"""An artifact's tensors, each put to its module of one base: every tensor is consumed and every target is served, or the
artifact is refused by name.

Follows PEFT 0.21 for what a configuration means (which modules are targets, rank and alpha patterns, rsLoRA, DoRA, biases,
modules_to_save) by asking PEFT itself where it has the function. Does not attach anything: binding changes no model.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapthub.adapters.delta import Dora, EmbeddingLowRank, LowRank, Replacement, Shift, Update
from adapthub.adapters.errors import BaseMismatch, TensorMismatch, UnsupportedAdapter
from adapthub.adapters.flat import Prefix
from adapthub.adapters.heads import Head, Heads

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.base import Base

# LoRA fields whose effect is computed here, and fields that matter only while training or are for display.
_LORA_COMPUTED = frozenset(
    [
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "bias",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "fan_in_fan_out",
    ]
)
_INERT = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "peft_version",
        "inference_mode",
        "lora_dropout",
        "init_lora_weights",
        "megatron_core",
        "qalora_group_size",
        "eva_config",
        "runtime_config",
        "ensure_weight_tying",
    ]
)
_PREFIX_COMPUTED = frozenset(
    [
        "peft_type",
        "task_type",
        "num_virtual_tokens",
        "token_dim",
        "num_layers",
        "num_attention_heads",
        "num_transformer_submodules",
        "modules_to_save",
        "encoder_hidden_size",
        "prefix_projection",
        "init_weights",
    ]
)
# Initialisations that change the base's weights: the saved A and B do not add to the base as published.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

_LORA_KEY = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<parameter>weight|bias))?"
)


@dataclass(frozen=True)
class Binding:
    """One adapter, ready for one base: what it adds to which module, its head, its prefix.

    `updates` maps names of modules of `base.model` to additive updates. Everything is on the base's device.
    """

    digest: str
    task: str | None
    labels: tuple[str, ...] | None
    updates: Mapping[str, tuple[Update, ...]]
    head: Head | None
    prefix: Prefix | None


@dataclass
class _Tensors:
    """An adapter's tensors by role; names are the task model's, without PEFT's prefix."""

    low_rank: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    other: dict[str, torch.Tensor] = field(default_factory=dict)


def bind(artifact: Artifact, base: Base, modules: Mapping[str, nn.Module], heads: Heads) -> Binding:
    """Bind `artifact` to `base`, whose named modules are `modules` and whose heads `heads` makes.

    Raises BaseMismatch where the recorded fingerprint differs, UnsupportedAdapter for a method or field that is not
    computed here, TensorMismatch for a tensor left over, missing or of another shape.
    """
    _check_base(artifact, base)
    if artifact.method == "prefix":
        _check_fields(artifact.config, _PREFIX_COMPUTED)
        return _PrefixBinder(artifact, base, modules, heads).bind()
    if artifact.config.get("peft_type") != "LORA":
        raise UnsupportedAdapter(
            f"adapters of type {artifact.config.get('peft_type')} are not run here",
            hint="LoRA, rsLoRA, DoRA and prefix adapters are.",
        )
    _check_fields(artifact.config, _LORA_COMPUTED)
    return _LoraBinder(artifact, base, modules, heads).bind()


def _check_base(artifact: Artifact, base: Base) -> None:
    recorded = artifact.base_fingerprint
    if recorded is None:
        return
    if differences := recorded.difference(base.fingerprint):
        raise BaseMismatch(
            f"{artifact.path.name} was trained on {artifact.base_ref}, not on {base.ref}: {'; '.join(differences)}",
            hint=f"Load it on {artifact.base_ref}.",
        )


def _check_fields(config: Mapping[str, Any], computed: frozenset[str]) -> None:
    for name, value in config.items():
        if value and name not in computed and name not in _INERT:
            raise UnsupportedAdapter(f"adapter_config.json sets {name}={value!r}, which is not computed here")
    initialised = config.get("init_lora_weights")
    if isinstance(initialised, str) and initialised.lower().startswith(_CHANGES_BASE):
        raise UnsupportedAdapter(
            f"init_lora_weights={initialised!r} changed the base model's own weights in training",
            hint="Save it with PEFT's path_initial_model_for_weight_conversion, which turns it into a plain LoRA.",
        )


class _Binder:
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
        self.updates: dict[str, list[Update]] = {}
        self.replaced: dict[str, dict[str, torch.Tensor]] = {}
        self.head_tensors: dict[str, torch.Tensor] = {}

    def _bind_whole(self, name: str, tensor: torch.Tensor) -> bool:
        """Put a tensor of the head, or of a module in modules_to_save, aside; False for any other."""
        owner, _, parameter = name.rpartition(".")
        path = self._path(owner)
        if path is None:
            self.head_tensors[name] = tensor
        elif any(entry in owner.split(".") or owner.endswith(f".{entry}") for entry in self.saved):
            self.replaced.setdefault(path, {})[parameter] = tensor
        else:
            return False
        return True

    def _finish(self, prefix: Prefix | None = None) -> Binding:
        for path, state in self.replaced.items():
            self._add(path, Replacement(_replacement(self.modules[path], state, path, self.base)))
        head = _head(self.artifact, self.heads, self.head_tensors)
        self._check_targets(head)
        self._check_saved(head)
        if head and head.uses_pooler and "pooler" in self.base.uninitialised and "pooler" not in self.saved:
            raise BaseMismatch(
                f"the head reads the pooler, and neither {self.base.ref} nor the adapter has weights for it",
                hint="Train with the pooler in modules_to_save.",
            )
        updates = {path: tuple(group) for path, group in self.updates.items()}
        return Binding(self.artifact.digest, self.artifact.task, self.artifact.labels, updates, head, prefix)

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
        candidates = [name]
        if name.startswith(f"{self.prefix}."):
            inner = name.removeprefix(f"{self.prefix}.")
            candidates.insert(0, f"{self.inside}.{inner}" if self.inside else inner)
        elif self.inside:
            candidates.append(f"{self.inside}.{name}")
        return next((path for path in candidates if path in self.modules), None)

    def _task_name(self, path: str) -> str:
        """The reverse of `_path` under a task model: `encoder.layer.0` becomes `bert.encoder.layer.0`."""
        if self.inside or self.artifact.task is None:
            return path
        return f"{self.prefix}.{path}"

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=self.base.device, dtype=self.base.dtype)

    def _add(self, path: str, update: Update) -> None:
        self.updates.setdefault(path, []).append(update)


class _LoraBinder(_Binder):
    def __init__(
        self, artifact: Artifact, base: Base, modules: Mapping[str, nn.Module], heads: Heads
    ) -> None:
        from peft import LoraConfig

        super().__init__(artifact, base, modules, heads)
        self.config = LoraConfig(**{k: v for k, v in artifact.config.items() if k != "peft_version"})
        if not self.config.target_modules:
            raise UnsupportedAdapter(
                "adapter_config.json has no target_modules, so it does not say what it adapts",
                hint="Save the adapter again with PEFT, which writes them.",
            )

    def bind(self) -> Binding:
        tensors = _split(self.artifact.tensors(), "base_model.model.")
        for name, parts in tensors.low_rank.items():
            self._bind_low_rank(name, parts, tensors.other)
        for name, tensor in tensors.other.items():
            self._bind_other(name, tensor)
        return self._finish()

    def _bind_low_rank(
        self, name: str, parts: Mapping[str, torch.Tensor], other: dict[str, torch.Tensor]
    ) -> None:
        path = self._path(name)
        if path is None:
            raise TensorMismatch(
                f"{self.base.ref} has no module {name!r}, which the adapter has LoRA weights for"
            )
        module = self.modules[path]
        if not self._targets(name, module):
            raise TensorMismatch(
                f"the adapter has LoRA weights for {name!r}, which its configuration does not target"
            )
        embedding = isinstance(module, nn.Embedding)
        a_name, b_name = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        expected = {a_name, b_name} | ({"lora_magnitude_vector"} if self.config.use_dora else set())
        expected |= {"lora_B.bias"} if self.config.lora_bias else set()
        if missing := sorted(expected - set(parts)):
            raise TensorMismatch(f"the adapter lacks {', '.join(missing)} of {name!r}")
        if left := sorted(set(parts) - expected):
            raise TensorMismatch(f"the adapter has {', '.join(left)} of {name!r}, which nothing uses")
        a, b = parts[a_name], parts[b_name]
        features_in, features_out = _features(module, path)
        rank = self._rank(name)
        shapes = {a_name: (rank, features_in), b_name: (features_out, rank)}
        for part, shape in shapes.items():
            if tuple(parts[part].shape) != shape:
                raise TensorMismatch(
                    f"{part} of {name!r} is {list(parts[part].shape)}; here it is {list(shape)}"
                )
        scale = self._scale(name, rank)
        a, b = self._move(a), self._move(b)
        if embedding:
            if self.config.use_dora:
                raise UnsupportedAdapter(f"DoRA under an embedding ({name!r}) is not computed here")
            # Some families' embeddings multiply what they look up; PEFT does the same to the update.
            scale *= float(getattr(module, "embed_scale", 1.0))
            self._add(path, EmbeddingLowRank(a.T.contiguous(), b, scale))
            self._consume_embedding(name, module, other)
            return
        bias = self._move(parts["lora_B.bias"]) * scale if self.config.lora_bias else None
        low_rank = LowRank(a, b, scale, bias)
        if self.config.use_dora:
            self._add(path, _dora(low_rank, self._move(parts["lora_magnitude_vector"]), module, self.base))
        else:
            self._add(path, low_rank)

    def _bind_other(self, name: str, tensor: torch.Tensor) -> None:
        owner, _, parameter = name.rpartition(".")
        owner = owner.removesuffix(".base_layer")
        if self._bind_whole(f"{owner}.{parameter}", tensor):
            return
        path = cast(str, self._path(owner))
        if parameter != "bias" or self.config.bias not in ("all", "lora_only"):
            raise TensorMismatch(f"the adapter has a tensor {name!r} that nothing uses")
        own = self.modules[path].bias
        if not isinstance(own, torch.Tensor) or own.shape != tensor.shape:
            raise TensorMismatch(f"{name!r} does not fit the bias of {path!r}")
        self._add(path, Shift(self._move(tensor) - own.to(self.base.dtype)))

    def _consume_embedding(self, name: str, module: nn.Module, other: dict[str, torch.Tensor]) -> None:
        """PEFT saves a targeted embedding whole beside its LoRA; it must be the base's own."""
        for key in (f"{name}.base_layer.weight", f"{name}.weight"):
            saved = other.pop(key, None)
            if saved is None:
                continue
            own = module.weight
            assert isinstance(own, torch.Tensor)
            if saved.shape != own.shape or not torch.equal(saved.to(own.dtype), own.cpu()):
                raise UnsupportedAdapter(
                    f"{key!r} differs from the base model's embedding: it was resized or trained whole",
                    hint="Train LoRA on the embedding, or list it in modules_to_save.",
                )

    def _check_targets(self, head: Head | None) -> None:
        """Every module that PEFT would target has its LoRA weights."""
        for path, module in self.modules.items():
            if _is_target_type(module) and path not in self.updates and self._is_used(path, head):
                name = self._task_name(path)
                if self._targets(name, module):
                    raise TensorMismatch(f"the adapter targets {name!r} and has no weights for it")

    def _targets(self, name: str, module: nn.Module) -> bool:
        """Whether the configuration targets the task model's module `name`."""
        from peft.tuners.tuners_utils import check_target_module_exists

        if self.config.target_modules == "all-linear":  # PEFT writes what it stands for; others do not
            return isinstance(module, (nn.Linear, Conv1D))
        return bool(check_target_module_exists(self.config, name))

    def _rank(self, name: str) -> int:
        from peft.utils.other import get_pattern_key

        pattern: dict[str, int] = self.config.rank_pattern or {}
        return int(pattern.get(get_pattern_key(list(pattern), name), self.config.r))

    def _scale(self, name: str, rank: int) -> float:
        from peft.utils.other import get_pattern_key

        pattern: dict[str, float] = self.config.alpha_pattern or {}
        alpha = pattern.get(get_pattern_key(list(pattern), name), self.config.lora_alpha)
        return float(alpha / rank**0.5 if self.config.use_rslora else alpha / rank)


class _PrefixBinder(_Binder):
    def bind(self) -> Binding:
        tensors = dict(self.artifact.tensors())
        prompts = tensors.pop("prompt_embeddings", None)
        if prompts is None:
            raise TensorMismatch("the prefix adapter has no tensor 'prompt_embeddings'")
        prefix = self._prefix(prompts)
        for key, tensor in tensors.items():
            name = key.removeprefix("base_model.")
            if name == key or not self._bind_whole(name, tensor):
                raise TensorMismatch(f"the adapter has a tensor {key!r} that nothing uses")
        return self._finish(prefix)

    def _prefix(self, prompts: torch.Tensor) -> Prefix:
        config = self.base.backbone.config
        count = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = int(config.num_hidden_layers)
        length = int(self.artifact.config["num_virtual_tokens"])
        for name, here in (
            ("num_layers", layers),
            ("num_attention_heads", count),
            ("token_dim", count * size),
        ):
            if (there := self.artifact.config.get(name)) not in (None, here):
                raise TensorMismatch(f"the prefix has {name}={there}; this base has {here}")
        if tuple(prompts.shape) != (length, 2 * layers * count * size):
            raise TensorMismatch(
                f"'prompt_embeddings' is {list(prompts.shape)}; this base and prefix length need "
                f"{[length, 2 * layers * count * size]}"
            )
        # PEFT: [n, 2 * layers, count, size], keys and values in turn (PeftModel.get_prompt).
        values = self._move(prompts).view(length, 2 * layers, count, size).permute(1, 2, 0, 3)
        return Prefix(tuple(values[2 * layer : 2 * layer + 2].contiguous() for layer in range(layers)))


def _split(tensors: Mapping[str, torch.Tensor], prefix: str) -> _Tensors:
    result = _Tensors()
    for key, tensor in tensors.items():
        if not key.startswith(prefix):
            raise TensorMismatch(f"the adapter has a tensor {key!r} outside {prefix!r}: nothing uses it")
        name = key.removeprefix(prefix)
        match = _LORA_KEY.fullmatch(name)
        if match is None:
            result.other[name] = tensor
            continue
        part = match["part"] + (".bias" if match["parameter"] == "bias" else "")
        if part in result.low_rank.setdefault(match["module"], {}):
            raise TensorMismatch(
                f"the adapter has {part} of {match['module']!r} twice: {key!r} is one of them"
            )
        result.low_rank[match["module"]][part] = tensor
    _drop_duplicates(result.other)
    return result


def _drop_duplicates(other: dict[str, torch.Tensor]) -> None:
    """With bias="all" PEFT saves a head's bias three times: as its own, as the wrapper's copy, and the untrained one."""
    for name in [name for name in other if ".modules_to_save." in name or ".original_module." in name]:
        plain = name.replace(".modules_to_save.", ".").replace(".original_module.", ".")
        if plain not in other:
            raise TensorMismatch(f"the adapter has a tensor {name!r} that nothing uses")
        if ".modules_to_save." in name and not torch.equal(other[name], other[plain]):
            raise TensorMismatch(
                f"the adapter's tensors {name!r} and {plain!r} are copies of one, and differ"
            )
        del other[name]


def _head(artifact: Artifact, heads: Heads, tensors: Mapping[str, torch.Tensor]) -> Head | None:
    if artifact.task not in ("token-classification", "text-classification"):
        if tensors:
            raise TensorMismatch(f"the adapter has a tensor {next(iter(tensors))!r} that nothing uses")
        return None
    head = heads.make(artifact.task, tensors)
    if artifact.labels is not None and len(artifact.labels) != head.labels:
        raise TensorMismatch(f"the manifest names {len(artifact.labels)} labels; the head has {head.labels}")
    return head


def _backbone_path(base: Base) -> str:
    """The backbone's name inside `base.model`; empty where it is the model itself."""
    return "" if base.backbone is base.model else str(base.model.base_model_prefix)


def _is_target_type(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Embedding, Conv1D))


def _features(module: nn.Module, path: str) -> tuple[int, int]:
    if isinstance(module, nn.Linear):  # bitsandbytes' layers are nn.Linear too
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    raise UnsupportedAdapter(f"LoRA under {type(module).__name__} ({path!r}) is not computed here")


def _dora(low_rank: LowRank, magnitude: torch.Tensor, module: nn.Module, base: Base) -> Dora:
    weight = _full_weight(module).to(base.dtype)
    norm = torch.linalg.vector_norm(weight + low_rank.scale * (low_rank.b @ low_rank.a), dim=1)
    bias = module.bias if isinstance(module.bias, torch.Tensor) else None
    return Dora(low_rank, magnitude / norm, bias.detach().to(base.dtype) if bias is not None else None)


def _full_weight(module: nn.Module) -> torch.Tensor:
    """A linear layer's weight [out, in], dequantised as bitsandbytes computes with it, its state untouched."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if type(weight).__name__ == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, cast(Any, weight).quant_state)
    if type(weight).__name__ == "Int8Params":
        settled: torch.Tensor | None = cast(Any, module).state.SCB
        scales = cast(torch.Tensor, cast(Any, weight).SCB if settled is None else settled)
        return weight.data * scales[:, None] / 127  # LLM.int8(), by row (Dettmers et al. 2022, sec. 2.1)
    return weight.detach().T if isinstance(module, Conv1D) else weight.detach()


def _replacement(module: nn.Module, state: Mapping[str, torch.Tensor], path: str, base: Base) -> nn.Module:
    """A full-precision module of the same kind with the adapter's own weights."""
    if any(True for _ in module.children()):
        raise TensorMismatch(
            f"modules_to_save gives parameters {sorted(state)} to {path!r}, which has only children"
        )
    if isinstance(module, nn.Linear):
        fresh: nn.Module = nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None, device="meta"
        )
    else:
        fresh = copy.copy(
            module
        )  # shares nothing after load_state_dict: parameters are assigned, hooks dropped
        fresh._parameters = dict(module._parameters)
        fresh._forward_hooks = OrderedDict()
    expected = {name: tuple(parameter.shape) for name, parameter in fresh.named_parameters()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != got:
        raise TensorMismatch(f"modules_to_save brings {got} for {path!r}; it needs {expected}")
    fresh.load_state_dict(
        {name: tensor.to(device=base.device, dtype=base.dtype) for name, tensor in state.items()}, assign=True
    )
    return fresh.eval().requires_grad_(False)
