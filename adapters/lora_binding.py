"""A LoRA adapter's tensors, each put to its module: every tensor is consumed and every target is served, or it is refused
by name.

Follows PEFT 0.21 for what a configuration means (targets, rank and alpha patterns, rsLoRA, DoRA, biases) by asking PEFT
itself where it has the function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from adapthub.adapters.binder import Binding, TargetBinder
from adapthub.adapters.convolutions import ChannelShift, update_under
from adapthub.adapters.delta import Dora, EmbeddingLowRank, LowRank, Shift, TokenLogits, TokenRows
from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter
from adapthub.adapters.layers import Convolution, full_weight, has_channels_first, sizes
from adapthub.adapters.lora_facts import LORA_KEY, TOKENS, trained_tokens
from adapthub.adapters.names import inner_name, plain_name
from adapthub.adapters.served_heads import Heads

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.base import Base


@dataclass
class _Tensors:
    """An adapter's tensors by role; names are the task model's, without PEFT's prefix."""

    low_rank: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    other: dict[str, torch.Tensor] = field(default_factory=dict)


class LoraBinder(TargetBinder):
    kind = "LoRA"

    def __init__(
        self, artifact: Artifact, base: Base, modules: Mapping[str, nn.Module], heads: Heads
    ) -> None:
        from peft import LoraConfig

        super().__init__(artifact, base, modules, heads, LoraConfig)
        self.tied = self._tied() if self.config.ensure_weight_tying else ()
        if any(self._is_saved(name) for name in self.tied):
            self.saved += self.tied

    def bind(self) -> Binding:
        tensors = _split(self._tensors())
        for name, parts in tensors.low_rank.items():
            self._bind_low_rank(name, parts)
        for name, tensor in tensors.other.items():
            if name.endswith(TOKENS):
                self._bind_tokens(name.removesuffix(TOKENS), tensor)
            else:
                self._bind_other(name, tensor)
        if self.config.trainable_token_indices and not any(name.endswith(TOKENS) for name in tensors.other):
            raise TensorMismatch("the adapter lacks the rows of its trainable_token_indices")
        return self._finish()

    def _bind_low_rank(self, name: str, parts: Mapping[str, torch.Tensor]) -> None:
        path = self._target(name)
        module = self.modules[path]
        embedding = isinstance(module, nn.Embedding)
        a_name, b_name = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        expected = {a_name, b_name} | ({"lora_magnitude_vector"} if self.config.use_dora else set())
        expected |= {"lora_B.bias"} if self.config.lora_bias else set()
        if missing := sorted(expected - set(parts)):
            raise TensorMismatch(f"the adapter lacks {', '.join(missing)} of {name!r}")
        if left := sorted(set(parts) - expected):
            raise TensorMismatch(f"the adapter has {', '.join(left)} of {name!r}, which nothing uses")
        rank = self._rank(name)
        if isinstance(module, Convolution):
            self._add(path, update_under(module, name, parts, rank, self._scale(name, rank), self._move))
            return
        a, b = parts[a_name], parts[b_name]
        features_in, features_out = sizes(module, path)
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
            return
        bias = self._move(parts["lora_B.bias"]) * scale if self.config.lora_bias else None
        low_rank = LowRank(a, b, scale, bias)
        if self.config.use_dora:
            self._add(path, _dora(low_rank, self._move(parts["lora_magnitude_vector"]), module, self.base))
        else:
            self._add(path, low_rank)

    def _bind_tokens(self, name: str, rows: torch.Tensor) -> None:
        """Rows of some tokens [k, hidden] in the place of an embedding's own; of the output's too where it shares them."""
        path = self._path(name)
        module = None if path is None else self.modules[path]
        if path is None or not isinstance(module, nn.Embedding):
            raise TensorMismatch(f"the adapter has rows of {name!r}, which is no embedding of this base")
        ids = torch.tensor(
            trained_tokens(name, self.artifact.config), dtype=torch.long, device=self.base.device
        )
        if tuple(rows.shape) != (len(ids), module.embedding_dim):
            raise TensorMismatch(
                f"the rows of {name!r} are {list(rows.shape)}; here they are {[len(ids), module.embedding_dim]}"
            )
        if len(set(ids.tolist())) < len(ids) or not ((ids >= 0) & (ids < module.num_embeddings)).all():
            raise TensorMismatch(
                f"trainable_token_indices of {name!r} repeat, or lie outside the base's {module.num_embeddings} tokens"
            )
        change = self._move(rows) - module.weight[ids]
        self._add(path, TokenRows(ids, change * float(getattr(module, "embed_scale", 1.0))))
        if self.output is not None and self.output.weight is module.weight:
            output = next(name for name, each in self.modules.items() if each is self.output)
            self._add(output, TokenLogits(ids, change))

    def _bind_other(self, name: str, tensor: torch.Tensor) -> None:
        """The adapter's own bias of a module, or what any method may bring."""
        owner, _, parameter = name.rpartition(".")
        owner = owner.removesuffix(".base_layer")
        path = self._path(owner)
        if path is None or parameter != "bias" or self._is_saved(owner) or self.config.bias == "none":
            super()._bind_other(name, tensor)
            return
        module = self.modules[path]
        own = module.bias
        if not isinstance(own, torch.Tensor) or own.shape != tensor.shape:
            raise TensorMismatch(f"{name!r} does not fit the bias of {path!r}")
        shift = self._move(tensor) - own.to(self.base.dtype)
        self._add(path, ChannelShift(shift) if has_channels_first(module) else Shift(shift))

    def _targets(self, name: str, module: nn.Module) -> bool:
        names = self.tied if name in self.tied else (name,)
        return any(super(LoraBinder, self)._targets(each, module) for each in names)

    def _tied(self) -> tuple[str, ...]:
        """The input and output embeddings where they share a weight and have the names that PEFT ties adapters of."""
        from peft.utils.constants import EMBEDDING_LAYER_NAMES

        embeddings = (self.base.model.get_input_embeddings(), self.output)
        if self.output is None or embeddings[0].weight is not self.output.weight:
            return ()
        names = [name for name, module in self.modules.items() if module in embeddings]
        return tuple(name for name in names if name.split(".")[-1] in EMBEDDING_LAYER_NAMES)

    def _rank(self, name: str) -> int:
        from peft.utils.other import get_pattern_key

        pattern: dict[str, int] = self.config.rank_pattern or {}
        return int(pattern.get(get_pattern_key(list(pattern), name), self.config.r))

    def _scale(self, name: str, rank: int) -> float:
        from peft.utils.other import get_pattern_key

        pattern: dict[str, float] = self.config.alpha_pattern or {}
        alpha = pattern.get(get_pattern_key(list(pattern), name), self.config.lora_alpha)
        return float(alpha / rank**0.5 if self.config.use_rslora else alpha / rank)


def _split(tensors: Mapping[str, torch.Tensor]) -> _Tensors:
    result = _Tensors()
    for key, tensor in tensors.items():
        name = inner_name(key)
        match = LORA_KEY.fullmatch(name)
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
        plain = plain_name(name)
        if plain not in other:
            raise TensorMismatch(f"the adapter has a tensor {name!r} that nothing uses")
        if ".modules_to_save." in name and not torch.equal(other[name], other[plain]):
            raise TensorMismatch(
                f"the adapter's tensors {name!r} and {plain!r} are copies of one, and differ"
            )
        del other[name]


def _dora(low_rank: LowRank, magnitude: torch.Tensor, module: nn.Module, base: Base) -> Dora:
    weight = full_weight(module).to(base.dtype)
    norm = torch.linalg.vector_norm(weight + low_rank.scale * (low_rank.b @ low_rank.a), dim=1)
    bias = module.bias if isinstance(module.bias, torch.Tensor) else None
    return Dora(low_rank, magnitude / norm, bias.detach().to(base.dtype) if bias is not None else None)
