"""LoRA's rank by the supervised tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from adapthub.recipes.ranks import MOST, rank_by_data, why_by_data
from adapthub.recipes.recipe import Encoded

LLAMA = LlamaConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=80,
)  # fmt: skip
GPT2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=80)
ADAPTER = {"rank": 32, "alpha": 32, "target_modules": "all-linear"}


def chosen(supervised: int, config: PretrainedConfig = LLAMA, **changed: Any) -> int:
    how = {"adapter": ADAPTER, "given": {}, "method": "lora", "task": "text-generation", **changed}
    rank: int = rank_by_data(**how, train=Encoded([], supervised, supervised, 0), config=config)["rank"]
    return rank


def parameters(config: PretrainedConfig, rank: int) -> int:
    """Of PEFT's adapter."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("config", [LLAMA, GPT2])
def test_the_rank_doubles_when_the_data_have_more_tokens_than_it_parameters(config: PretrainedConfig) -> None:
    most = parameters(config, 32)
    assert (chosen(most, config), chosen(most + 1, config), chosen(2 * most + 1, config)) == (32, 64, 128)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_data_never_get_a_lower_rank(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert 32 <= chosen(few) <= chosen(many) <= MOST


def test_what_was_chosen_or_is_another_method_stays() -> None:
    assert chosen(10**9, given={"rank": None}) == MOST
    assert chosen(10**9, given={"rank": 32}) == 32
    assert chosen(10**9, method="rslora") == 32
    assert chosen(10**9, task="token-classification") == 32
    assert chosen(10**9, adapter={**ADAPTER, "target_modules": ["q_proj"]}) == 32
    assert chosen(10**9, adapter={**ADAPTER, "init": "eva"}) == 32


def test_the_reason_counts() -> None:
    train = Encoded([], 10**9, 10**9, 0)
    why = why_by_data({**ADAPTER, "rank": MOST}, {}, "lora", "text-generation", train, LLAMA)
    assert why is not None
    assert f"{parameters(LLAMA, MOST):,}) reach the supervised tokens (1,000,000,000;" in why
    assert f"{MOST} is the most" in why
    assert why_by_data(ADAPTER, {"rank": 32}, "lora", "text-generation", train, LLAMA) is None
