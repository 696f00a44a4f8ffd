"""adapter_config.json: PEFT's own are admitted; every foreign field, kind and pattern is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType

from adapthub.adapters.binding import _METHODS
from adapthub.adapters.configuration_policy import CONFIG_FIELDS, read_config
from adapthub.adapters.errors import AdmissionError, UnsupportedAdapter

LORA: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def read(config: dict[str, Any]) -> dict[str, object]:
    return read_config(json.dumps(config).encode(), "adapter_config.json")


@pytest.mark.parametrize("peft_type", CONFIG_FIELDS)
def test_the_fields_are_those_of_the_installed_peft(peft_type: str) -> None:
    assert CONFIG_FIELDS[peft_type] == PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type)]().to_dict().keys()


def test_real_configurations_are_admitted_as_they_are(saved_by_peft: dict[str, Path]) -> None:
    for folder in saved_by_peft.values():
        data = (folder / "adapter_config.json").read_bytes()
        assert read_config(data, "it") == json.loads(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"rank_pattern": {"q_proj": 4, r".*\.v_proj": 16}, "alpha_pattern": {"q_proj": 2.5}},
        {"rank_pattern": None, "target_modules": None, "modules_to_save": None, "layers_to_transform": None},
        {"target_modules": "all-linear", "exclude_modules": r".*\.(q|k)_proj", "layers_to_transform": [0, 1]},
        {"layers_pattern": ["layers", "h"], "layers_to_transform": 3},
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "os"}, "megatron_core": "os.system"},
        {"base_model_name_or_path": "/etc/../\u00fc\n"},
        {"eva_config": {"rho": 2.0}, "loftq_config": {"loftq_bits": 4}, "init_lora_weights": "eva"},
        {"lora_alpha": 0.5, "lora_dropout": 1, "bias": "lora_only"},
    ],
)
def test_what_peft_understands_is_data(fields: dict[str, Any]) -> None:
    assert read({**LORA, **fields}) == {**LORA, **fields}


@pytest.mark.parametrize("value", [None, False, "", {}, "os.system"])
def test_an_unknown_field_is_refused_whatever_its_value(value: object) -> None:
    with pytest.raises(AdmissionError, match="'enable_lora' is not a field of LORA"):
        read({**LORA, "enable_lora": value})


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(AdmissionError, match="'lora_alpha', 'r' is not a field of PREFIX_TUNING"):
        read({"peft_type": "PREFIX_TUNING", "r": 8, "lora_alpha": 1})


@pytest.mark.parametrize("peft_type", ["VERA", "lora", "", "__class__"])
def test_an_unknown_type_is_unsupported(peft_type: str) -> None:
    with pytest.raises(UnsupportedAdapter, match="LORA, IA3, PREFIX_TUNING, PROMPT_TUNING"):
        read({"peft_type": peft_type})


@pytest.mark.parametrize("config", [{}, {"peft_type": None}, {"peft_type": ["LORA"]}])
def test_a_type_must_be_there(config: dict[str, Any]) -> None:
    with pytest.raises(AdmissionError, match="no peft_type"):
        read(config)


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "r": [0, -1, 2**20 + 1, 1.0, "8", None, True, [8]],
        "lora_alpha": ["16", None, True, [1]],
        "lora_dropout": [-0.1, 1.1, "0", None],
        "use_dora": [0, 1, None, "true"],
        "use_rslora": ["yes"],
        "bias": [None, True, "some", []],
        "target_modules": [1, {"q": 1}, ["q", 1], [["q"]]],
        "exclude_modules": [0, [None]],
        "modules_to_save": ["classifier", [1], {}],
        "rank_pattern": [[], {"q": 0}, {"q": "4"}, {"q": 1.5}, {"q": True}],
        "alpha_pattern": [[], {"q": "4"}, {"q": None}],
        "layers_to_transform": ["1", [1.0], [True]],
        "base_model_name_or_path": [1, ["a"]],
        "task_type": [7],
    }.items(),
)
def test_a_value_of_the_wrong_kind_names_its_field(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(AdmissionError, match=f"{field} must be"):
            read({**LORA, field: value})


@pytest.mark.parametrize("length", [0, -5, 2**31, "20", None])
def test_prefix_lengths_are_bounded(length: object) -> None:
    with pytest.raises(AdmissionError, match="num_virtual_tokens must be"):
        read({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": length})


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "(a+)+b"},
        {"exclude_modules": "(a+)+b"},
        {"layers_pattern": "(a+)+b"},
        {"layers_pattern": ["h", "(a+)+b"]},
        {"rank_pattern": {"(a+)+b": 4}},
        {"alpha_pattern": {"(a+)+b": 4}},
    ],
)
def test_an_unsafe_pattern_names_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(AdmissionError, match=f"{next(iter(fields))}.*repeat inside a repeat"):
        read({**LORA, **fields})


def test_names_in_a_list_are_no_patterns() -> None:
    assert read({**LORA, "target_modules": ["(a+)+b"]})["target_modules"] == ["(a+)+b"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_are_finite(number: float) -> None:
    with pytest.raises(AdmissionError, match=r"NaN|Infinity"):
        read({**LORA, "lora_alpha": number})
    with pytest.raises(AdmissionError, match="lora_alpha must be"):
        read_config(b'{"peft_type": "LORA", "lora_alpha": 1e999}', "it")


def test_equal_keys_are_refused() -> None:
    with pytest.raises(AdmissionError, match="'r' appears twice"):
        read_config(b'{"peft_type": "LORA", "r": 8, "r": 64}', "it")


def test_every_admitted_type_has_a_binder() -> None:
    assert CONFIG_FIELDS.keys() == _METHODS.keys()


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ([f"layers.{n}.q_proj" for n in range(20_001)], "20,001 patterns; at most 20,000"),
        ([f"layers.{n}.(q|v)_proj" for n in range(65)], "65 regular expressions; at most 64"),
    ],
)
def test_more_patterns_than_an_adapter_has_modules_are_refused(
    field: str, patterns: list[str], said: str
) -> None:
    with pytest.raises(AdmissionError, match=f"{field} has {said}"):
        read({**LORA, field: dict.fromkeys(patterns, 4)})
    assert read({**LORA, field: dict.fromkeys(patterns[:-1], 4)})
