"""Bases and adapters on disk to measure with: random weights of realistic shapes.

Does not load them for serving.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from adapthub.adapters.samples import fetch

RANK = 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def random_base(path: Path) -> Path:
    """A random Llama of about 0.5B parameters, with SmolLM2's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(fetch("smollm2-135m")).save_pretrained(path)
    return path


def random_adapters(path: Path, folder: Path, count: int) -> list[Path]:
    """Random ones that differ, small enough that the text stays text."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=RANK, target_modules=LINEAR),
    )
    paths = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.02, generator=generator)
        model.save_pretrained(str(folder / f"adapter-{index}"))
        paths.append(folder / f"adapter-{index}")
    return paths


def copies(adapter: Path, folder: Path, count: int) -> list[Path]:
    """Adapters that are distinct by digest and share their weights' file on disk."""
    paths = []
    for index in range(count):
        path = folder / str(index)
        path.mkdir(parents=True)
        (path / "adapter_model.safetensors").hardlink_to(adapter / "adapter_model.safetensors")
        shutil.copy(adapter / "adapter_config.json", path)
        (path / "README.md").write_text(f"copy {index}\n")
        paths.append(path)
    return paths
