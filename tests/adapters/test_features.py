"""Adapters without a head give their last hidden state: PEFT's own backbone is the oracle, alone and mixed with others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModel, DebertaV2Config, DebertaV2Model

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import UnsupportedAdapter
from adapthub.adapters.selections import Selection
from tests.adapters.causal_pass import CAUSAL, write_causal_base
from tests.adapters.peft_oracle import LINEAR, load_plain, lora_config, prompt_config, save_adapter
from tests.adapters.test_attach import close
from tests.conftest import write_tokenizer
from tests.runtime.generating import lora

TOKENS = "token-classification"
ROWS = [[2, 5, 6, 7, 8, 9, 3], [2, 10, 3], [2, 30, 31, 32, 33, 3]]


def save_encoder(base: Path, folder: Path, config: PeftConfig) -> Path:
    """An adapter for PEFT's FEATURE_EXTRACTION, with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(AutoModel.from_pretrained(base), config)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(str(folder))
    return folder


def encoder_hidden(base: Path, folder: Path, row: Sequence[int]) -> torch.Tensor:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model: Any = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(folder)).eval()
        ids = torch.tensor([list(row)])
        inputs = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        hidden: torch.Tensor = model(input_ids=ids, **inputs).last_hidden_state[0]
        return hidden


def causal_hidden(base: Path, folder: Path, row: Sequence[int]) -> torch.Tensor:
    """What the language model's head would read."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model: Any = PeftModel.from_pretrained(load_plain(base, CAUSAL, 0), str(folder)).eval()
        output = model(input_ids=torch.tensor([list(row)]), output_hidden_states=True)
        hidden: torch.Tensor = output.hidden_states[-1][0]
        return hidden[-len(row) :]


ENCODERS: Mapping[str, Any] = {
    "lora": lambda: LoraConfig(
        task_type="FEATURE_EXTRACTION", target_modules=LINEAR, r=4, init_lora_weights=False
    ),
    "no task": lambda: LoraConfig(target_modules=["query", "value"], r=2, init_lora_weights=False),
    "dora": lambda: LoraConfig(
        task_type="FEATURE_EXTRACTION", target_modules=["query"], use_dora=True, init_lora_weights=False
    ),
    "prefix": lambda: PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoders_adapter_gives_pefts_hidden_states(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    folder = save_encoder(tiny_base, tmp_path / "plain", ENCODERS[kind]())
    headed = save_adapter(tiny_base, tmp_path / "ner", TOKENS, lora_config(TOKENS), labels=3)
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    digest, other = (adapted.attach(Artifact.read(path)) for path in (folder, headed))
    selections: list[Selection] = [((1.0, digest),), ((1.0, other),), ()]
    features = [{"input_ids": row} for row in ROWS]
    for row, ours in zip(features, adapted.logits(features, [selections[0]] * 3), strict=True):
        close(ours, encoder_hidden(tiny_base, folder, row["input_ids"]))
    for one, selection, together in zip(
        features, selections, adapted.logits(features, selections), strict=True
    ):
        close(together, adapted.logits([one], [selection])[0])


@pytest.mark.parametrize(
    "config",
    [
        lora(),
        lora(r=2, use_dora=True),
        lora(target_modules=["q_proj", "lm_head"]),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        prompt_config(CAUSAL),
    ],
    ids=["lora", "dora", "with lm_head", "prefix", "prompt"],
)
def test_a_language_models_adapter_gives_what_its_head_would_read(tmp_path: Path, config: PeftConfig) -> None:
    base = write_causal_base(tmp_path / "base")
    folder = save_adapter(base, tmp_path / "plain", CAUSAL, config)
    adapted = AdaptedBase(load_base(str(base), device="cpu"))
    selection = ((1.0, adapted.attach(Artifact.read(folder))),)
    mixed = adapted.logits([{"input_ids": row} for row in ROWS], [selection, (), selection])
    for place in (0, 2):
        close(mixed[place], causal_hidden(base, folder, ROWS[place]))
    close(mixed[1], adapted.logits([{"input_ids": ROWS[1]}], [()])[0])


def test_a_prefix_that_padded_rows_cannot_have_is_refused(tmp_path: Path) -> None:
    config = DebertaV2Config(
        vocab_size=160,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    )
    base = tmp_path / "base"
    DebertaV2Model(config).save_pretrained(base)
    write_tokenizer(base)
    adapted = AdaptedBase(load_base(str(base), device="cpu"))
    assert adapted.layout == "padded"
    prefix = save_encoder(base, tmp_path / "p", ENCODERS["prefix"]())
    digest = adapted.attach(Artifact.read(prefix))
    with pytest.raises(UnsupportedAdapter, match="deberta-v2"):
        adapted.logits([{"input_ids": ROWS[0]}], [((1.0, digest),)])
