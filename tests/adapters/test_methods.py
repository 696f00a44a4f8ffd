"""Methods by name: each makes a PEFT model that trains, and each wrong setting is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.methods import METHODS, find_method, method_config, method_settings
from tests.adapters.saves import peft_as_it_is

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 60,
}
MODELS: dict[str, tuple[Any, Any, Any, tuple[str, ...]]] = {
    "bert tokens": ("token-classification", BertForTokenClassification, BertConfig, ("classifier",)),
    "bert texts": (
        "text-classification",
        BertForSequenceClassification,
        BertConfig,
        ("classifier", "pooler"),
    ),
    "roberta texts": (
        "text-classification",
        RobertaForSequenceClassification,
        RobertaConfig,
        ("classifier",),
    ),
    "llama": ("text-generation", LlamaForCausalLM, LlamaConfig, ()),
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("prompt", "peft")])
def test_every_method_trains_its_own_tensors_and_the_saved_modules(method: str, family: str) -> None:
    task, model_class, config_class, saved = MODELS[family]
    torch.manual_seed(0)
    with peft_as_it_is():
        model = get_peft_model(
            model_class(config_class(**SIZES)), method_config(method, task, modules_to_save=saved)
        )
    tokens = torch.randint(5, 60, (2, 7))
    output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    output.square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # lora_A has no gradient while lora_B is zero, but a gradient tensor all the same.
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    for module in saved:
        assert any(f"{module}.modules_to_save" in name for name in trained)
        assert not any(f"{module}." in name and "lora_" in name for name in trained)
    low_rank = {name for name in trained if "lora_" in name}
    if method == "ia3":
        assert not low_rank
        assert any("ia3_l" in name for name in trained)
        return
    if method == "prefix":
        assert not low_rank
        assert any("prompt_encoder" in name for name in trained)
        return
    linears = [
        name
        for name, module in model_class(config_class(**SIZES)).named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head" and not set(name.split(".")) & set(saved)
    ]
    assert len([name for name in low_rank if "lora_A" in name]) == len(linears)
    assert any("magnitude" in name for name in low_rank) == (method == "dora")


def test_defaults_by_task() -> None:
    encoder = method_config("lora", "token-classification")
    decoder = method_config("lora", "text-generation")
    assert isinstance(encoder, LoraConfig)
    assert isinstance(decoder, LoraConfig)
    assert (encoder.r, encoder.lora_alpha, encoder.target_modules) == (8, 16, "all-linear")
    assert (decoder.r, decoder.lora_alpha, decoder.exclude_modules) == (32, 32, None)
    prefix = method_config("prefix", "text-generation", prefix_length=7)
    assert isinstance(prefix, PrefixTuningConfig)
    assert (prefix.num_virtual_tokens, prefix.task_type) == (7, "CAUSAL_LM")


def test_variants_are_flags_of_lora() -> None:
    variants: dict[str, Any] = {
        name: method_config(name, "text-classification") for name in ("lora", "rslora", "dora")
    }
    assert {name: (config.use_rslora, config.use_dora) for name, config in variants.items()} == {
        "lora": (False, False),
        "rslora": (True, False),
        "dora": (False, True),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["token-classification", "text-generation"])
def test_every_default_has_a_reason(method: str, task: Any) -> None:
    defaults = find_method(method).defaults(task)
    if method != "peft" and (method, task) != ("prompt", "token-classification"):
        assert method_settings(method, task) == {name: default.value for name, default in defaults.items()}
    assert find_method(method).learns_as in METHODS
    assert all(len(default.reason) > 20 for default in defaults.values())
    assert METHODS[method].summary


def test_given_settings_win() -> None:
    given: dict[str, Any] = {"rank": 4, "alpha": 2.5, "dropout": 0.1, "target_modules": ("query", "value")}
    assert method_settings("dora", "text-classification", **given) == {
        **given,
        "target_modules": ["query", "value"],
        "trainable_tokens": [],
    }
    config = method_config("dora", "text-classification", **given)
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 2.5, 0.1)
    assert set(config.target_modules or ()) == {"query", "value"}


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("lorra", {}, "no adapter method 'lorra'.*Did you mean 'lora'"),
        ("prefix", {"rank": 8}, "rank does not apply to prefix. prefix takes prefix_length"),
        ("prefix", {"target_modules": "all-linear"}, "target_modules does not apply"),
        ("lora", {"prefix_length": 8}, "prefix_length does not apply to lora"),
        ("lora", {"rank": 0}, "rank must be a whole number from 1, not 0"),
        ("lora", {"rank": 8.0}, "rank must be"),
        ("lora", {"rank": True}, "rank must be"),
        ("lora", {"rank": 2**21}, "rank must be"),
        ("lora", {"alpha": 0}, "alpha must be a number above 0"),
        ("lora", {"alpha": -1}, "alpha must be"),
        ("lora", {"alpha": float("nan")}, "alpha must be"),
        ("lora", {"alpha": float("inf")}, "alpha must be"),
        ("lora", {"dropout": 1.0}, "dropout must be a number from 0 to below 1"),
        ("lora", {"dropout": "0.1"}, "dropout must be"),
        ("lora", {"target_modules": []}, "target_modules must be"),
        ("lora", {"target_modules": ""}, "target_modules must be"),
        ("lora", {"target_modules": ["q", 1]}, "target_modules must be"),
        ("lora", {"target_modules": "(a+)+b"}, "repeat inside a repeat"),
        ("prefix", {"prefix_length": -1}, "prefix_length must be"),
        ("lora", {"trainable_tokens": [1, 1]}, "trainable_tokens must be tokens or their ids, each once"),
        ("lora", {"trainable_tokens": [-1]}, "trainable_tokens must be"),
        ("prefix", {"trainable_tokens": [1]}, "trainable_tokens does not apply to prefix"),
        ("lora", {"init": "pissa"}, "init is one of random, eva; 'pissa' is not"),
        ("dora", {"init": "eva"}, "init does not apply to dora"),
        ("prompt", {}, "prompt tuning is for text that a causal base generates, not for text-classification"),
        ("peft", {}, "method peft needs peft_config"),
        ("peft", {"peft_config": "file.json"}, "peft_config must be the fields of an adapter_config.json"),
        (
            "peft",
            {"peft_config": {"peft_type": "OFT"}},
            "type 'OFT' are not served.*LORA, IA3, PREFIX_TUNING, PROMPT_TUNING",
        ),
        (
            "peft",
            {"peft_config": {"peft_type": "LORA", "init_lora_weights": "eva"}},
            "method lora with init=eva",
        ),
        ("peft", {"peft_config": {"peft_type": "LORA", "rang": 4}}, "peft_config: 'rang' is not a field"),
        ("peft", {"peft_config": {"peft_type": "LORA", "r": "four"}}, "peft_config: r must be"),
        (
            "peft",
            {"peft_config": {"peft_type": "LORA", "target_modules": "(a+)+b"}},
            "repeat inside a repeat",
        ),
    ],
)
def test_wrong_settings_are_refused_by_name(method: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        method_config(method, "text-classification", **settings)


def test_an_unknown_task_is_refused() -> None:
    wrong: Any = "text-clasification"
    with pytest.raises(InvalidSettings, match="Did you mean 'text-classification'"):
        method_settings("lora", wrong)
