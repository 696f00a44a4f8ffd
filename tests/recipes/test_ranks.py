"""LoRA's rank by the supervised tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from adapthub.recipes import plan
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.ranks import MOST, follows_data, rank_by_data, why_by_data
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.tokenizer_kinds import byte_level

LLAMA = LlamaConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=80, architectures=["LlamaForCausalLM"],
)  # fmt: skip
GPT2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=80, architectures=["GPT2LMHeadModel"])
ADAPTER = {"rank": 32, "alpha": 32, "target_modules": "all-linear"}


def chosen(seen: int, config: PretrainedConfig = LLAMA) -> int:
    return rank_by_data(32, seen, config)


def follows(**changed: Any) -> bool:
    how = {"adapter": ADAPTER, "given": {}, "method": "lora", "recipe": find_recipe("chat"), **changed}
    return follows_data(**how)


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
    assert follows()
    assert follows(given={"rank": None})
    assert follows(method="dora")
    assert not follows(given={"rank": 32})
    assert not follows(method="rslora")
    assert not follows(recipe=find_recipe("ner"))
    assert not follows(recipe=find_recipe("prefer"))
    assert not follows(adapter={**ADAPTER, "target_modules": ["q_proj"]})
    assert not follows(adapter={**ADAPTER, "init": "eva"})


def test_the_reason_counts() -> None:
    why = why_by_data(MOST, 10**9, LLAMA)
    assert f"{parameters(LLAMA, MOST):,}) reach the supervised tokens that are seen (1,000,000,000;" in why
    assert f"{MOST} is the most" in why
    assert "is the most" not in why_by_data(64, 10**4, LLAMA)


def test_a_run_of_few_steps_counts_what_it_sees(tmp_path: Path) -> None:
    tokenizer = byte_level()
    write_causal_base(
        tmp_path / "base",
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [{"source": "ada was born", "target": "bob met ada in paris " * 16} for _ in range(512)]
    how: dict[str, Any] = {"base": str(tmp_path / "base"), "validation": False, "batch_size": 8}
    whole, few = (plan("translate", rows, **how, max_steps=steps) for steps in (64, 16))
    assert (whole.settings["rank"], few.settings["rank"]) == (64, 32)
    assert int(few.reasons["rank"].split("seen (")[1].split(";")[0].replace(",", "")) == (
        whole.splits[0].supervised // 4
    )
