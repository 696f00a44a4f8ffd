"""An artifact bound to one base: its fingerprint and its configuration's fields checked, then its method's binder.

What is not computed here is refused by the name of its field. Binding changes no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from adapthub.adapters.binder import Binding
from adapthub.adapters.errors import BaseMismatch, UnsupportedAdapter
from adapthub.adapters.ia3_binding import Ia3Binder
from adapthub.adapters.lora_binding import LoraBinder
from adapthub.adapters.prefix_binding import PrefixBinder
from adapthub.adapters.prompt_binding import PromptBinder
from adapthub.adapters.served_heads import Heads

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
        "trainable_token_indices",
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
        "init_ia3_weights",
        "megatron_core",
        "qalora_group_size",
        "eva_config",
        "runtime_config",
        "ensure_weight_tying",
    ]
)

_IA3_COMPUTED = frozenset(
    [
        "peft_type",
        "task_type",
        "target_modules",
        "exclude_modules",
        "feedforward_modules",
        "fan_in_fan_out",
        "modules_to_save",
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

# How the virtual tokens began does not matter; modules_to_save would change their keys, and is not among these.
_PROMPT_COMPUTED = frozenset(
    [
        "peft_type",
        "task_type",
        "num_virtual_tokens",
        "token_dim",
        "num_layers",
        "num_attention_heads",
        "num_transformer_submodules",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
        "tokenizer_kwargs",
    ]
)

# By PEFT's type, for every type that is admitted: the binder, and the fields that it computes.
_METHODS: Mapping[str, tuple[type[LoraBinder | Ia3Binder | PrefixBinder | PromptBinder], frozenset[str]]] = {
    "LORA": (LoraBinder, _LORA_COMPUTED),
    "IA3": (Ia3Binder, _IA3_COMPUTED),
    "PREFIX_TUNING": (PrefixBinder, _PREFIX_COMPUTED),
    "PROMPT_TUNING": (PromptBinder, _PROMPT_COMPUTED),
}


def bind(artifact: Artifact, base: Base, modules: Mapping[str, nn.Module], heads: Heads) -> Binding:
    """Bind `artifact` to `base`, whose named modules are `modules` and whose heads `heads` makes.

    Raises BaseMismatch where the recorded fingerprint differs, UnsupportedAdapter for a method or field that is not
    computed here, TensorMismatch for a tensor left over, missing or of another shape.
    """
    _check_base(artifact, base)
    binder, computed = _METHODS[artifact.config["peft_type"]]
    _check_fields(artifact.config, computed)
    return binder(artifact, base, modules, heads).bind()


def _check_base(artifact: Artifact, base: Base) -> None:
    recorded = artifact.base_fingerprint
    if recorded is None:
        return
    if differences := recorded.difference(base.fingerprint, names=("when trained", "loaded")):
        raise BaseMismatch(
            f"the adapter was trained on {artifact.base_ref}, not on {base.ref}: {'; '.join(differences)}",
            hint=f"Load it on {artifact.base_ref}.",
        )


def _check_fields(config: Mapping[str, Any], computed: frozenset[str]) -> None:
    for name, value in config.items():
        if value and name not in computed and name not in _INERT:
            raise UnsupportedAdapter(f"adapter_config.json sets {name}={value!r}, which is not computed here")
