"""A random T5, and LoRAs on it as PEFT saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from tests.conftest import write_tokenizer


def write_t5(folder: Path) -> Path:
    """Of 2 + 2 layers of 32."""
    torch.manual_seed(0)
    config = cast(Any, T5Config)(
        vocab_size=160,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=0,
        initializer_factor=1.5,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def save(base: Path, folder: Path, seed: int, targets: list[str]) -> Path:
    torch.manual_seed(seed)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(base)
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=4, lora_alpha=32, target_modules=targets, init_lora_weights=False
    )
    get_peft_model(model, config).save_pretrained(str(folder))
    return folder
