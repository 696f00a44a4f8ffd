"""Adapters that PEFT itself made and saved, and what PEFT itself computes with them: the oracle of our runtime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from adapthub.adapters.quantized import steady
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
)

CLASSES = {
    "token-classification": (AutoModelForTokenClassification, "TOKEN_CLS"),
    "text-classification": (AutoModelForSequenceClassification, "SEQ_CLS"),
}
LINEAR = r".*\.(query|key|value|attention\.output\.dense|intermediate\.dense|layer\.\d\.output\.dense)"


def load_plain(
    base: Path, task: str, labels: int, *, quantize: str | None = None, head: Sequence[str] = ("classifier", "score")
) -> PreTrainedModel:
    """The task model as a user of transformers loads it. A quantised one leaves nothing but the head unquantised."""
    options: dict[str, Any] = {}
    if quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=list(head),
        )
    if quantize == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(head))
    torch.manual_seed(99)
    model: PreTrainedModel = CLASSES[task][0].from_pretrained(base, num_labels=labels, dtype=torch.float32, **options)
    # bitsandbytes' own evaluation rounds activations, differently by processor and neighbours; both sides go without.
    steady(model)
    return model.eval()


def lora_config(task: str, **options: Any) -> LoraConfig:
    """A LoRA over all linear layers of a BERT, with random A and B (an untrained B = 0 would prove nothing)."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "init_lora_weights": False} | options
    return LoraConfig(task_type=CLASSES[task][1], **options)


def prefix_config(task: str, length: int = 5, **options: Any) -> PrefixTuningConfig:
    """Prefix tuning of `length` virtual tokens."""
    return PrefixTuningConfig(task_type=CLASSES[task][1], num_virtual_tokens=length, **options)


def save_adapter(
    base: Path, folder: Path, task: str, config: PeftConfig, *, labels: int = 3, seed: int = 0
) -> Path:
    """Make an adapter with random weights of a size that matters and save it as PEFT does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own deprecations and its advice about embeddings
        model = get_peft_model(load_plain(base, task, labels), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(parameter * (1 + 0.1 * noise) if "magnitude" in name else 0.1 * noise)
        model.save_pretrained(str(folder))
    return folder


def expected_logits(
    base: Path,
    folder: Path,
    task: str,
    rows: Sequence[Mapping[str, Sequence[int]]],
    *,
    labels: int = 3,
    quantize: str | None = None,
) -> list[torch.Tensor]:
    """What plain PEFT computes for each row alone, without padding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_plain(base, task, labels, quantize=quantize), str(folder)).eval()
        results = []
        for row in rows:
            inputs = {name: torch.tensor([list(values)]) for name, values in row.items()}
            inputs.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.inference_mode():
                results.append(model(**inputs).logits[0])
    return results
