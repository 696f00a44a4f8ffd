"""The learning rate by a base's width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config, Qwen2VLConfig, T5Config

from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.settings import Settings
from adapthub.recipes.widths import WIDTH, fitted, rate_by_width, why_by_width


def _llama(width: int) -> LlamaConfig:
    return LlamaConfig(hidden_size=width, num_attention_heads=1)


@pytest.mark.parametrize(
    ("config", "rate", "why"),
    [
        (_llama(WIDTH), 5e-4, "this one's 2,000 as llama's family learns"),
        # 5e-5 * 10 * (2000 / width) ** 0.781, LoRA Without Regret
        (_llama(4096), 2.9e-4, "this one's 4,096 as llama's family learns"),
        (_llama(576), 1.3e-3, "this one's 576 as llama's family learns"),
        (_llama(16), 1.4e-3, "this one's 16 "),  # as for 512: nobody tried narrower ones
        (Qwen2Config(hidden_size=3584, num_attention_heads=28), 4.8e-4, "3,584 as qwen's family learns"),
        (Qwen2VLConfig(text_config={"hidden_size": 3584}), 4.8e-4, "3,584 as qwen's"),
        (T5Config(d_model=512), 5e-4, "is not known of t5"),
    ],
)
def test_the_rate_is_that_of_the_paper(config: PretrainedConfig, rate: float, why: str) -> None:
    assert rate_by_width(5e-4, config) == rate
    assert why in why_by_width(5e-4, config)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_wider_bases_never_learn_faster(one: int, other: int) -> None:
    narrow, wide = sorted((one, other))
    rates = [rate_by_width(5e-4, _llama(2 * width)) for width in (narrow, wide)]
    assert rates[0] >= rates[1] > 0


def test_a_chosen_rate_stays() -> None:
    defaults, config = find_recipe("chat").defaults("lora"), _llama(576)
    chosen = Settings.resolve({"learning_rate": 5e-4}, defaults)
    assert fitted(chosen, defaults, {"learning_rate": 5e-4}, config).learning_rate == 5e-4
    once = fitted(chosen, defaults, {"learning_rate": None}, config)
    assert once.learning_rate == fitted(once, defaults, {}, config).learning_rate == 1.3e-3


def test_other_recipes_and_methods_have_one_rate() -> None:
    config = _llama(576)
    for name, method in (("ner", "lora"), ("chat", "prefix")):
        defaults = find_recipe(name).defaults(method)
        settings = Settings.resolve({}, defaults)
        assert fitted(settings, defaults, {}, config) == settings
