"""Adapters that PEFT itself made and saved, and what PEFT itself computes with them: the oracle of our runtime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
)

CLASSES = {
    "token-classification": (AutoModelForTokenClassification, "TOKEN_CLS"),
    "text-classification": (AutoModelForSequenceClassification, "SEQ_CLS"),
    "question-answering": (AutoModelForQuestionAnswering, "QUESTION_ANS"),
    "text-generation": (AutoModelForCausalLM, "CAUSAL_LM"),
    "text-to-text": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
}
LINEAR = r".*\.(query|key|value|attention\.output\.dense|intermediate\.dense|layer\.\d\.output\.dense)"


def load_plain(
    base: Path,
    task: str,
    labels: int,
    *,
    quantize: str | None = None,
    head: Sequence[str] = ("classifier", "score", "lm_head"),
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
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=list(head)
        )
    torch.manual_seed(99)
    model: Any = CLASSES[task][0].from_pretrained(base, num_labels=labels, dtype=torch.float32, **options)
    if quantize is not None:
        from adapthub.adapters.quantized import steady

        # bitsandbytes' own evaluation rounds activations, differently by processor and neighbours; both sides go without.
        steady(model)
    return cast(PreTrainedModel, model.eval())


def lora_config(task: str, **options: Any) -> LoraConfig:
    """A LoRA over all linear layers of a BERT, with random A and B (an untrained B = 0 would prove nothing)."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "init_lora_weights": False}
    return LoraConfig(task_type=CLASSES[task][1], **(settings | options))


def prefix_config(task: str, length: int = 5, **options: Any) -> PrefixTuningConfig:
    """Prefix tuning of `length` virtual tokens."""
    return PrefixTuningConfig(task_type=CLASSES[task][1], num_virtual_tokens=length, **options)


def ia3_config(task: str, **options: Any) -> IA3Config:
    """IA3 on keys and values of a BERT, and on the input of its feed-forward layers."""
    settings: dict[str, Any] = {
        "target_modules": ["key", "value", "output.dense"],
        "feedforward_modules": ["output.dense"],
    }
    return IA3Config(task_type=CLASSES[task][1], **(settings | options))


def prompt_config(task: str, length: int = 5, **options: Any) -> PromptTuningConfig:
    """Prompt tuning of `length` virtual tokens."""
    return PromptTuningConfig(task_type=CLASSES[task][1], num_virtual_tokens=length, **options)


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
                    around = "magnitude" in name or "ia3_l" in name
                    parameter.copy_(parameter * (1 + 0.1 * noise) if around else 0.1 * noise)
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
    """What plain PEFT computes for each row alone, without padding; of a language model, the real tokens' logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(
            load_plain(base, task, labels, quantize=quantize), str(folder)
        ).eval()
        results = []
        for row in rows:
            inputs = {name: torch.tensor([list(values)]) for name, values in row.items()}
            if hasattr(model.config, "type_vocab_size"):  # PEFT's prefix tuning cannot do without
                inputs.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.inference_mode():
                logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
            logits = logits[0].float().cpu()  # bitsandbytes puts its own on a GPU
            # Prompt tuning answers for its virtual tokens too.
            results.append(logits[-len(row["input_ids"]) :] if task == "text-generation" else logits)
    return results


def combined_logits(
    base: Path,
    folders: Sequence[Path],
    weights: Sequence[float],
    task: str,
    rows: Sequence[Mapping[str, Sequence[int]]],
    *,
    labels: int = 3,
) -> list[torch.Tensor]:
    """Plain LoRAs (alpha / r = 8 / r) summed into the dense weights, under the weighted mean of their heads.

    PEFT's own `add_weighted_adapter` refuses adapters that bring heads.
    """
    model: Any = load_plain(base, task, labels)
    heads: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        for weight, folder in zip(weights, folders, strict=True):
            tensors = load_file(folder / "adapter_model.safetensors")
            for key, tensor in tensors.items():
                name = key.removeprefix("base_model.model.")
                if key.endswith("lora_B.weight"):
                    a = tensors[key.replace("lora_B", "lora_A")]
                    module = model.get_submodule(name.removesuffix(".lora_B.weight"))
                    module.weight += weight * (8 / a.shape[0]) * tensor @ a
                elif "lora_" not in key:
                    heads[name] = heads.get(name, 0) + weight / sum(weights) * tensor
        for name, value in heads.items():
            model.get_parameter(name).copy_(value)
        results = []
        for row in rows:
            ids = torch.tensor([list(row["input_ids"])])
            results.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0])
    return results
