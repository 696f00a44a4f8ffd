"""What a LoRA's configuration gives its modules: as PEFT reads it, and in bounded time whatever a stranger wrote."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from adapthub.adapters import lora_facts
from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.lora_facts import ConfiguredLora, trained_tokens

MODULES = [
    *(f"model.layers.{n}.self_attn.{kind}_proj" for n in (0, 1, 11, 110) for kind in "qkv"),
    *(f"model.layers.{n}.mlp.experts.{m}.gate_proj" for n in (0, 1) for m in (0, 7, 77)),
    "encoder.layer.0.attention.self.query",
    "classifier",
]
PATTERNS = [
    "q_proj",
    "1.self_attn.q_proj",
    "layers.11.self_attn.k_proj",
    "^model.layers.0.self_attn.v_proj",
    "^....l.layers.0.self_attn.v_proj",
    "layers.1.self_attn.k.proj",
    ".lf_attn.k_proj",
    ".ayers.1.self_attn.k_proj",
    "^layers.0.self_attn.v_proj",
    "mlp.experts.7.gate_proj$",
    "classifier",
    "self_attn",
    r".*\.experts\..*",
    r"layers\.(0|11)\..*_proj",
    r"experts.\d{1,2}.gate_proj",
    r"^model\.layers\.[0-9]+\.self_attn\.(q|k)_proj$",
    ".*query",
    "",
]


def ranks(lora: ConfiguredLora, modules: Iterable[str]) -> list[int]:
    return [lora.rank(module) for module in modules]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PATTERNS), unique=True, max_size=6))
def test_ranks_and_alphas_are_those_that_peft_reads(patterns: list[str]) -> None:
    given = {pattern: place + 20 for place, pattern in enumerate(patterns)}
    config: dict[str, Any] = {"r": 4, "lora_alpha": 6, "rank_pattern": given, "alpha_pattern": given}
    lora = ConfiguredLora(config)
    for module in MODULES:
        key = get_pattern_key(patterns, module)
        assert lora.rank(module) == given.get(key, 4)
        assert lora.scale(module) == given.get(key, 6) / given.get(key, 4)


def test_what_a_configuration_does_not_say_is_pefts() -> None:
    lora, theirs = ConfiguredLora({}), LoraConfig()
    assert (lora.rank("a"), lora.scale("a")) == (theirs.r, theirs.lora_alpha / theirs.r)
    assert ConfiguredLora({"r": 4, "use_rslora": True}).scale("a") == theirs.lora_alpha / 2


def test_trained_rows_are_of_the_embedding_by_its_whole_name() -> None:
    config = {"trainable_token_indices": {"embed_tokens": [5, 3], "wte": [1]}}
    for module, rows in (("model.embed_tokens", [5, 3]), ("embed_tokens", [5, 3]), ("model.my_wte", [])):
        assert trained_tokens(module, config) == rows
    assert trained_tokens("model.wte", {"trainable_token_indices": [7]}) == [7]
    assert trained_tokens("model.wte", {}) == []


def test_of_equal_patterns_the_first_counts() -> None:
    both = ["q_proj", "q_proj$"], ["^a.q_proj", "^a.q_proj$"]
    for patterns in (*both, *(pair[::-1] for pair in both)):
        given = {pattern: place + 20 for place, pattern in enumerate(patterns)}
        key = get_pattern_key(patterns, "a.q_proj")
        assert ConfiguredLora({"rank_pattern": given}).rank("a.q_proj") == given[key] == 20


def test_names_for_many_modules_are_looked_up() -> None:
    """30,000 of them were each tried on each of as many tensors, which took hours."""
    modules = [f"model.layers.{n}.mlp.experts.{m}.up_proj" for n in range(60) for m in range(500)]
    given = {module: place + 1 for place, module in enumerate(modules)}
    random.Random(0).shuffle(modules)
    lora = ConfiguredLora({"rank_pattern": given})
    assert ranks(lora, modules) == [given[module] for module in modules]


def test_an_expression_takes_time_in_proportion_to_the_name() -> None:
    """Python's own engine would try 40 billion ways."""
    pattern, module = ".*a.*a.*a.*ab", "a" * 1000
    assert ConfiguredLora({"rank_pattern": {pattern: 3}}).rank(module) == lora_facts.PEFT_RANK
    assert ConfiguredLora({"rank_pattern": {pattern: 3}}).rank(f"{module}b") == 3


def test_each_module_is_matched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_facts, "MAX_WORK", 10 * len(r".*\.q"))
    lora = ConfiguredLora({"rank_pattern": {r".*\.q": 3}})
    assert ranks(lora, ["layers.1.q"] * 100) == [3] * 100


def test_no_more_is_matched_than_takes_long() -> None:
    lora = ConfiguredLora({"rank_pattern": {f"(a|b){{{n}}}c": 3 for n in range(1, 61)}})
    with pytest.raises(AdmissionError, match="rank_pattern .* too long"):
        ranks(lora, (f"model.layers.{n}.self_attn.q_proj" for n in range(10_000)))


def test_no_more_is_looked_up_than_takes_long() -> None:
    """Names with dots at other places each."""
    names = {("." * n + "a" * 60)[:60].ljust(60, "."): 3 for n in range(60)}
    lora = ConfiguredLora({"rank_pattern": names})
    with pytest.raises(AdmissionError, match="rank_pattern .* too long"):
        ranks(lora, (f"{n:060}" for n in range(10_000)))


def test_what_only_pythons_engine_reads_is_refused_by_name() -> None:
    assert re.match(r"a\Z", "a")
    with pytest.raises(AdmissionError, match=r"alpha_pattern .*cannot be matched"):
        ConfiguredLora({"alpha_pattern": {r"a\Z": 3}}).scale("a")
