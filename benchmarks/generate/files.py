"""Bases and adapters on disk to measure with: random weights of realistic shapes.

Does not load them for serving.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

# A real text, for prompts.
TEXT = Path(__file__).parent.parent.parent / "README.md"
RANK = 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# Shapes of models that people serve, and one of about 0.5B parameters that is small enough for CPUs.
SHAPES: Mapping[str, PreTrainedConfig] = {
    "random": LlamaConfig(
        vocab_size=49152,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
}


def random_base(shape: str, path: Path, device: str) -> Path:
    """Random weights of a shape, made on `device`, with a tokenizer of this project's own texts."""
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        AutoModelForCausalLM.from_config(SHAPES[shape], dtype=dtype).save_pretrained(path)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([TEXT.read_text()], vocab_size=2000, special_tokens=["<s>", "</s>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    ).save_pretrained(path)
    return path


def random_adapters(path: Path, folder: Path, count: int, device: str = "cpu") -> list[Path]:
    """Random ones that differ, small enough that the text stays text; made on `device`."""
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=RANK, target_modules=LINEAR)
    with torch.device("meta"):  # for the names and shapes of what PEFT saves
        model = get_peft_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path)), config)
    shapes = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    model.peft_config["default"].base_model_name_or_path = str(path)
    paths = []
    for index in range(count):
        generator = torch.Generator(device).manual_seed(index)
        paths.append(folder / f"adapter-{index}")
        model.peft_config["default"].save_pretrained(str(paths[-1]))
        tensors = {
            name: (torch.randn(shape, generator=generator, device=device) * 0.02).cpu()
            for name, shape in shapes.items()
        }
        save_file(tensors, paths[-1] / "adapter_model.safetensors", metadata={"format": "pt"})
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
