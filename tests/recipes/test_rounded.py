"""Batches of a few lengths: losses and gradients of batches as they come, whatever a base sees of padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration, GPT2Config

from adapthub.recipes.captured_layers import captured
from adapthub.recipes.rounded import lengths_to, mask_for, rounded
from tests.recipes.test_captured_layers import LAYERS as CAPTURED
from tests.recipes.test_captured_layers import Counted
from tests.recipes.test_captured_layers import adapted as captured_model
from tests.recipes.test_unpadded import BATCH, KINDS, adapted, gradients, shapes_of

MASKED = {"llama": False, "bert": True, "bert-pooled": True, "roberta": True}


@given(st.integers(1, 5000), st.integers(0, 9))
def test_lengths_are_few_and_reach_the_longest(longest: int, room: int) -> None:
    most = longest + room
    lengths = lengths_to(longest, most)
    assert len(lengths) <= 8
    assert longest <= lengths[-1] < longest + 8
    assert lengths[-1] <= most
    assert all(length % 8 == 0 for length in lengths[:-1])
    assert [*lengths] == sorted(set(lengths))


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_batches_as_they_come(kind: str) -> None:
    model, _ = adapted(kind)
    batch = {**BATCH, "labels": KINDS[kind][2]}
    loss, expected = gradients(model, batch)
    seen, hook = shapes_of(model)
    masked = mask_for(model, BATCH, 64)
    assert masked is MASKED[kind]
    seen.clear()
    with rounded(model, (8, 16), masked=masked):
        mine, ours = gradients(model, batch)
    hook.remove()
    assert seen == [(3, 16)]
    assert mine == pytest.approx(loss, rel=1e-5)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    assert gradients(model, batch)[0] == loss


@pytest.mark.parametrize("kind", KINDS)
def test_so_in_the_numbers_that_a_gpu_computes_in(kind: str) -> None:
    """Where the base has fewer bits than its head."""
    task, config, _ = KINDS[kind]
    torch.manual_seed(0)
    head = [] if kind == "llama" else ["classifier"]
    settings = LoraConfig(target_modules="all-linear", exclude_modules=head, modules_to_save=head)
    model: Any = get_peft_model(task.from_config(config).bfloat16(), settings)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    assert mask_for(model, BATCH, 64) is MASKED[kind]


@pytest.mark.parametrize("kind", ["gpt2", *KINDS])
def test_no_position_is_asked_for_that_is_not_there(kind: str) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if kind == "gpt2":
        base = AutoModelForCausalLM.from_config(GPT2Config(**sizes, n_positions=64))
        model: Any = get_peft_model(base, LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True))
    else:
        model, _ = adapted(kind)
    most = 62 if kind == "roberta" else 64  # whose positions begin behind its padding's
    ids = torch.arange(2 * most).view(2, most) % 95 + 2
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert mask_for(model, batch, most) is MASKED.get(kind, False)
    assert mask_for(model, batch, 8) is None


def test_padding_before_the_rows_is_masked() -> None:
    model, _ = adapted("llama")
    batch = {name: tensor.flip(1) for name, tensor in BATCH.items()}
    assert mask_for(model, batch, 64) is True


@pytest.mark.parametrize("targets", [4, 9])
def test_encoder_decoders_are_not_padded(targets: int) -> None:
    config = BartConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
    )
    base: Any = BartForConditionalGeneration(config)
    model: Any = get_peft_model(base, LoraConfig(target_modules=["q_proj"]))
    batch = {**BATCH, "labels": torch.ones(3, targets, dtype=torch.long)}
    batch["decoder_input_ids"] = batch["labels"]
    assert mask_for(model, batch, 64) is None


def test_what_is_no_text_is_not_padded() -> None:
    model, _ = adapted("llama")
    assert mask_for(model, {"pixel_values": BATCH["input_ids"]}, 64) is None
    assert mask_for(model, {"input_ids": BATCH["input_ids"]}, 64) is None


def test_a_batch_longer_than_all_lengths_is_as_it_is() -> None:
    model, _ = adapted("llama")
    batch = {**BATCH, "labels": KINDS["llama"][2]}
    loss, _ = gradients(model, batch)
    with rounded(model, (8,), masked=True):
        assert gradients(model, batch)[0] == pytest.approx(loss, rel=1e-6)


def test_batches_of_unlike_lengths_are_replayed() -> None:
    model, recorder = captured_model(), Counted()

    def batch(width: int) -> dict[str, Any]:
        ids = torch.arange(2 * width, device=model.device).view(2, width) * 5 % 95
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "use_cache": False}

    plain = [gradients(model, batch(width))[1] for width in (5, 8, 7, 6)]
    with rounded(model, (8, 16), masked=False), captured(model, lambda: recorder):
        for width, wanted in zip((5, 8, 7, 6), plain, strict=True):
            for name, gradient in gradients(model, batch(width))[1].items():
                torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6)
    assert recorder.replayed == 2 * 2 * CAPTURED
