"""Rows without padding: losses and gradients of padded ones, and no row sees another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    LlamaConfig,
    RobertaConfig,
)

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.flat import exact_offset
from adapthub.recipes.economy import recomputed
from adapthub.recipes.unpadded import runs_unpadded, unpadded

_SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.3, "max_position_embeddings": 64, "pad_token_id": 0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_LLAMA = {name: value for name, value in _SIZES.items() if "dropout" not in name}
LENGTHS = (9, 3, 6)
IDS = torch.arange(27).view(3, 9) * 5 % 95 + 2
MASK = (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).long()
BATCH = {"input_ids": IDS * MASK, "attention_mask": MASK}
_HEAD: Any = {**_SIZES, "num_labels": 3}
KINDS: dict[str, tuple[Any, Any, torch.Tensor]] = {
    "llama": (AutoModelForCausalLM, LlamaConfig(**_LLAMA, num_key_value_heads=2), IDS.masked_fill(MASK == 0, -100)),
    "bert": (AutoModelForTokenClassification, BertConfig(**_HEAD), (IDS % 3).masked_fill(MASK == 0, -100)),
    "bert-pooled": (AutoModelForSequenceClassification, BertConfig(**_HEAD), torch.tensor([0, 2, 1])),
    "roberta": (AutoModelForSequenceClassification, RobertaConfig(**_HEAD), torch.tensor([0, 2, 1])),
}  # fmt: skip


def adapted(kind: str) -> tuple[Any, int]:
    """A LoRA over everything, all of it moved, and where positions begin."""
    torch.manual_seed(0)
    task, config, _ = KINDS[kind]
    base = task.from_config(config).eval()
    backbone = getattr(base, base.base_model_prefix)
    offset = exact_offset(backbone, 97)
    assert offset is not None
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(base, config).eval(), offset


def shapes_of(model: Any) -> tuple[list[tuple[int, ...]], Any]:
    """Rows and tokens that the first layer computes, a pass each, and the hook that notes them."""
    seen: list[tuple[int, ...]] = []
    backbone = model.get_base_model().base_model
    part = next(module for name, module in backbone.named_modules() if name.endswith(("q_proj", "query")))
    return seen, part.register_forward_hook(
        lambda module, given, output: seen.append(tuple(output.shape[:2]))
    )


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return float(loss.detach()), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_padded_rows(kind: str, again: bool) -> None:
    """`again`: with activations that are computed again."""
    model, offset = adapted(kind)
    batch = {**BATCH, "labels": KINDS[kind][2]}
    loss, expected = gradients(model, batch)
    seen, hook = shapes_of(model)
    model.train()
    with unpadded(model, offset):
        if again:
            with recomputed(model):
                mine, ours = gradients(model, batch)
        else:
            mine, ours = gradients(model, batch)
    hook.remove()
    assert seen == [(1, sum(LENGTHS))] * (2 if again else 1)
    assert mine == pytest.approx(loss, abs=1e-5)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-5), name
    assert not model.get_base_model().is_activation_checkpointing
    assert gradients(model.eval(), batch)[0] == pytest.approx(loss, abs=1e-6)


def test_no_row_sees_another() -> None:
    model, offset = adapted("llama")
    other = BATCH["input_ids"].clone()
    other[1:] = (other[1:] + 11) % 97
    with torch.inference_mode(), unpadded(model, offset):
        before = model(**BATCH).logits[0]
        after = model(input_ids=other, attention_mask=MASK).logits[0]
    assert torch.equal(before, after)


def test_a_prefix_cannot_be_computed_again() -> None:
    """transformers would leave it out."""
    config: Any = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_config(KINDS["llama"][1]), config)
    with pytest.raises(InvalidSettings, match="gradient_checkpointing"), recomputed(model):
        pass
    assert not runs_unpadded(model, 0, BATCH)


def test_attention_drops_out_as_in_padded_rows() -> None:
    torch.manual_seed(0)
    config = BertConfig(**{**_HEAD, "attention_probs_dropout_prob": 0.5})
    base = AutoModelForTokenClassification.from_config(config).eval()
    offset = exact_offset(base.bert, 97)
    assert offset is not None
    settings: Any = LoraConfig(target_modules="all-linear")
    model: Any = get_peft_model(base, settings)
    with torch.no_grad(), unpadded(model, offset):
        drawn = [model.train()(**BATCH).logits for _ in range(2)]
        calm = [model.eval()(**BATCH).logits for _ in range(2)]
    assert not torch.allclose(*drawn)
    assert torch.equal(*calm)


def test_what_computes_something_else_is_found() -> None:
    model, offset = adapted("roberta")
    assert runs_unpadded(model, offset, BATCH)
    assert not runs_unpadded(model, offset + 1, BATCH)
    assert not runs_unpadded(model, offset, {"pixel_values": IDS})
