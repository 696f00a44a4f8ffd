"""The policy on adapter_config.json: which PEFT types, which fields, values of which kind.

Admitted are the fields that PEFT's configuration class of that type has; any other is refused by name,
whatever its value, for nothing may be dropped silently. Regular expressions must be of the safe subset.
Strings that only name code (`auto_mapping`, `megatron_core`) are data: nothing here or later imports what
they name.

Does not decide which fields the runtime computes, and does not fill in defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from adapthub.adapters.errors import AdmissionError, UnsupportedAdapter
from adapthub.adapters.patterns import check_pattern, is_name
from adapthub.adapters.strict_json import parse_json_object

MAX_COUNT = 2**20
MAX_PATTERNS = 20_000
"""Of one field: more than a LoRA on 128 experts in 48 layers has modules."""
MAX_EXPRESSIONS = 64
"""Among them, that are no names."""

_Check = Callable[[object], bool]

# PEFT 0.21.2; a test compares with the dataclasses of the installed PEFT, whose import takes seconds.
_EVERY_TYPE = """
    auto_mapping base_model_name_or_path inference_mode peft_type peft_version revision task_type
"""
_LORA = """
    alora_invocation_tokens alpha_pattern arrow_config bias corda_config ensure_weight_tying eva_config
    exclude_modules fan_in_fan_out init_lora_weights kasa_config layer_replication layers_pattern
    layers_to_transform loftq_config lora_alpha lora_bias lora_dropout lora_ga_config megatron_config
    megatron_core modules_to_save monteclora_config qalora_group_size r rank_pattern target_modules
    target_parameters trainable_token_indices use_bdlora use_dora use_qalora use_rslora velora_config
"""
_IA3 = """
    exclude_modules fan_in_fan_out feedforward_modules init_ia3_weights modules_to_save target_modules
"""
_PREFIX_TUNING = """
    encoder_hidden_size init_weights modules_to_save num_attention_heads num_layers
    num_transformer_submodules num_virtual_tokens prefix_projection token_dim
"""
_PROMPT_TUNING = """
    modules_to_save num_attention_heads num_layers num_transformer_submodules num_virtual_tokens
    prompt_tuning_init prompt_tuning_init_text token_dim tokenizer_kwargs tokenizer_name_or_path
"""
_PATTERNS = [
    "target_modules",
    "exclude_modules",
    "feedforward_modules",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
]
# Initialisations that change the base's weights, some by an SVD of each at every load: the saved A and B do not
# add to the base as published.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
CONFIG_FIELDS: Mapping[str, frozenset[str]] = {
    "LORA": frozenset((_EVERY_TYPE + _LORA).split()),
    "IA3": frozenset((_EVERY_TYPE + _IA3).split()),
    "PREFIX_TUNING": frozenset((_EVERY_TYPE + _PREFIX_TUNING).split()),
    "PROMPT_TUNING": frozenset((_EVERY_TYPE + _PROMPT_TUNING).split()),
}


def read_config(data: bytes, where: str) -> dict[str, object]:
    """adapter_config.json as admitted: known type, known fields, values of the right kind, safe
    expressions.

    Raises AdmissionError naming the field, or UnsupportedAdapter for a PEFT type outside CONFIG_FIELDS, or an adapter that
    is none of its base as published.
    """
    config = parse_json_object(data, where)
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str):
        raise AdmissionError(f"{where} has no peft_type")
    if peft_type not in CONFIG_FIELDS:
        raise UnsupportedAdapter(
            f"{where}: adapters of PEFT type {peft_type!r} are not supported",
            hint=f"Supported types: {', '.join(CONFIG_FIELDS)}.",
        )
    if unknown := sorted(config.keys() - CONFIG_FIELDS[peft_type]):
        raise AdmissionError(
            f"{where}: {', '.join(map(repr, unknown))} is not a field of {peft_type} configurations",
            hint="Another version of PEFT may have written it: save the adapter again with PEFT 0.21.",
        )
    for field, value in config.items():
        if field in _KINDS and not _KINDS[field][1](value):
            raise AdmissionError(f"{where}: {field} must be {_KINDS[field][0]}, not {value!r:.80}")
    _check_patterns(config, where)
    _check_initialisation(config, where)
    return config


def _check_patterns(config: Mapping[str, object], where: str) -> None:
    """Check what PEFT hands to `re`: modules given as one string, layers_pattern, the keys of *_pattern."""
    for field in _PATTERNS:
        value = config.get(field)
        if isinstance(value, str):
            check_pattern(value, f"{where}: {field}")
        elif isinstance(value, dict) or (field == "layers_pattern" and isinstance(value, list)):
            _check_many(value, f"{where}: {field}")
            for pattern in value:
                check_pattern(pattern, f"{where}: {field}")


def _check_many(patterns: Collection[str], where: str) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise AdmissionError(
            f"{where} has {len(patterns):,} patterns; at most {MAX_PATTERNS:,} are read",
            hint="Leave out those that say what r and lora_alpha say.",
        )
    expressions = sum(not is_name(pattern) for pattern in patterns)
    if expressions > MAX_EXPRESSIONS:
        raise AdmissionError(
            f"{where} has {expressions:,} regular expressions; at most {MAX_EXPRESSIONS} are read",
            hint="Write names of modules in it.",
        )


def _check_initialisation(config: Mapping[str, object], where: str) -> None:
    initialised = config.get("init_lora_weights")
    if isinstance(initialised, str) and initialised.lower().startswith(_CHANGES_BASE):
        raise UnsupportedAdapter(
            f"{where}: init_lora_weights={initialised!r} changed the base model's own weights in training",
            hint="Save it with PEFT's path_initial_model_for_weight_conversion, which turns it into a plain LoRA.",
        )


def _is_whole(value: object) -> bool:
    return type(value) is int  # a bool is an int to isinstance


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_COUNT


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _null_or(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _map_to(check: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _any_of(*checks: _Check) -> _Check:
    return lambda value: any(check(value) for check in checks)


# What a field must be, the check, the fields. A field that is not here is data that no one here interprets.
_KINDS: Mapping[str, tuple[str, _Check]] = {
    field: (kind, check)
    for kind, check, fields in (
        (f"a whole number from 1 to {MAX_COUNT}", _is_count, "r num_virtual_tokens"),
        (
            f"null or a whole number from 1 to {MAX_COUNT}",
            _null_or(_is_count),
            "token_dim num_layers num_attention_heads num_transformer_submodules encoder_hidden_size",
        ),
        (
            "true or false",
            lambda value: isinstance(value, bool),
            "init_ia3_weights use_dora use_rslora fan_in_fan_out inference_mode lora_bias use_qalora prefix_projection",
        ),
        (
            "null or a string",
            _null_or(_is_text),
            "base_model_name_or_path revision task_type peft_version prompt_tuning_init_text tokenizer_name_or_path",
        ),
        (
            "null, a string or a list of strings",
            _null_or(_any_of(_is_text, _list_of(_is_text))),
            "target_modules exclude_modules feedforward_modules layers_pattern",
        ),
        ("null or a list of strings", _null_or(_list_of(_is_text)), "modules_to_save target_parameters"),
        (
            "null, a layer's number or a list of them",
            _null_or(_any_of(_is_whole, _list_of(_is_whole))),
            "layers_to_transform",
        ),
        (
            "null, a list of tokens' ids or a map from names to such lists",
            _null_or(_any_of(_list_of(_is_whole), _map_to(_list_of(_is_whole)))),
            "trainable_token_indices",
        ),
        (
            "TEXT, SAMPLE_VOCAB or RANDOM",
            lambda value: value in ("TEXT", "SAMPLE_VOCAB", "RANDOM"),
            "prompt_tuning_init",
        ),
        ("a number", _is_number, "lora_alpha"),
        ("a number from 0 to 1", _is_probability, "lora_dropout"),
        ("a map from names to ranks", _null_or(_map_to(_is_count)), "rank_pattern"),
        ("a map from names to numbers", _null_or(_map_to(_is_number)), "alpha_pattern"),
        ("none, all or lora_only", lambda value: value in ("none", "all", "lora_only"), "bias"),
    )
    for field in fields.split()
}
