"""The loss by chunks is transformers' loss, its gradients too, for every kind of head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    T5Config,
)

from adapthub.recipes import language_loss
from adapthub.recipes.language_loss import LanguageLoss

_SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIGS: dict[str, Any] = {
    "tied": LlamaConfig(**_SIZES, tie_word_embeddings=True),
    "untied": LlamaConfig(**_SIZES, tie_word_embeddings=False),
    "softcapped": Gemma2Config(**_SIZES, final_logit_softcapping=2.0),
    "scaled": CohereConfig(**_SIZES, logit_scale=0.25),
    "gpt2": GPT2Config(
        vocab_size=97,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    ),
}
BATCH = {
    "input_ids": torch.arange(30).view(3, 10) * 7 % 96 + 1,
    "attention_mask": torch.tensor([[1] * 10, [1] * 7 + [0] * 3, [1] * 4 + [0] * 6]),
}
BATCH["labels"] = BATCH["input_ids"].masked_fill(BATCH["attention_mask"] == 0, -100)
BATCH["labels"][0, :5] = BATCH["labels"][1, :2] = -100


def adapted(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIGS[kind], attn_implementation="eager")
    targets = ["c_attn", "c_proj"] if kind == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    config: Any = LoraConfig(
        target_modules=targets,
        init_lora_weights=False,
        fan_in_fan_out=kind == "gpt2",
        task_type="CAUSAL_LM",
        **options,
    )
    return get_peft_model(base, config)


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(model: Any) -> None:
    mine, count = LanguageLoss(model.get_base_model())(model, BATCH)
    theirs = model(**BATCH).loss
    assert count == (BATCH["labels"][:, 1:] != -100).sum()
    assert float(mine.detach() / count) == pytest.approx(float(theirs.detach()), rel=1e-6)
    ours, expected = gradients(model, mine / count), gradients(model, theirs)
    assert ours.keys() == expected.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in ours.values())
    for name, gradient in expected.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_loss_and_gradients_are_transformers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_loss, "_CHUNK_LOGITS", 97 * 4)  # 4 targets at a time, of 16
    compare(adapted(kind))


def test_a_head_that_is_trained_gets_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_loss, "_CHUNK_LOGITS", 97 * 4)
    model = adapted("untied", modules_to_save=["lm_head"])
    compare(model)
    assert gradients(model, LanguageLoss(model.get_base_model())(model, BATCH)[0])[
        "base_model.model.lm_head.modules_to_save.default.weight"
    ].any()


def test_a_prefix_is_no_token() -> None:
    torch.manual_seed(0)
    config: Any = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    compare(get_peft_model(AutoModelForCausalLM.from_config(CONFIGS["tied"]), config))


def test_what_is_not_this_loss_is_left_to_the_model() -> None:
    model = adapted("tied").get_base_model()
    assert LanguageLoss.of(model) is not None
    model.config.output_router_logits = True
    assert LanguageLoss.of(model) is None
    del model.config.output_router_logits
    assert (
        LanguageLoss.of(AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=97, d_model=32, num_layers=1)))
        is None
    )


def test_nothing_is_kept_for_a_loss_that_is_only_looked_at() -> None:
    model = adapted("tied")
    with torch.no_grad():
        total, count = LanguageLoss(model.get_base_model())(model, BATCH)
        assert float(total / count) == pytest.approx(float(model(**BATCH).loss), rel=1e-6)
    assert not total.requires_grad
