"""What attaching refuses by name, whatever the method: values that are not finite, modules that adapters cannot reach."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter
from tests.adapters.causal_pass import CAUSAL, write_causal_base
from tests.adapters.peft_oracle import ia3_config, lora_config, prefix_config, prompt_config, save_adapter

METHODS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: lora_config(CAUSAL, target_modules=["q_proj"]),
    "ia3": lambda: ia3_config(CAUSAL, target_modules=["k_proj"], feedforward_modules=[]),
    "prefix": lambda: prefix_config(CAUSAL),
    "prompt": lambda: prompt_config(CAUSAL),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_base(tmp_path_factory.mktemp("llama") / "base")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", METHODS)
def test_a_value_that_is_not_finite(llama: Path, tmp_path: Path, name: str, value: float) -> None:
    path = save_adapter(llama, tmp_path / "a", CAUSAL, METHODS[name]())
    weights = path / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = sorted(tensors)[-1]
    tensors[key].view(-1)[-1] = value
    save_file(tensors, weights)
    adapted = AdaptedBase(load_base(str(llama), device="cpu"))
    with pytest.raises(TensorMismatch, match=f"{key}' has values that are not finite"):
        adapted.attach(Artifact.read(path))
    assert not adapted.attached


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_large_values_are_not_taken_for_infinite(llama: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Their sum overflows, they do not."""
    path = save_adapter(llama, tmp_path / "a", CAUSAL, METHODS["lora"]())
    weights = path / "adapter_model.safetensors"
    largest = torch.finfo(dtype).max
    save_file({k: torch.full_like(v, largest, dtype=dtype) for k, v in load_file(weights).items()}, weights)
    adapted = AdaptedBase(load_base(str(llama), device="cpu"))
    assert adapted.attach(Artifact.read(path)) in adapted.attached


@pytest.mark.parametrize("options", [{"target_modules": ["out_proj"]}, {"modules_to_save": ["out_proj"]}])
def test_a_module_whose_weight_its_parent_reads(tmp_path: Path, options: dict[str, list[str]]) -> None:
    """Siglip pools with torch's MultiheadAttention, which never calls its own out_proj."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    config = SiglipVisionConfig(**sizes, image_size=16, patch_size=8)
    SiglipVisionModel(config).save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SiglipVisionModel.from_pretrained(tmp_path / "base")
        settings: dict[str, Any] = {"target_modules": ["fc1"], "init_lora_weights": False}
        lora = LoraConfig(**settings | options)
        get_peft_model(model, lora).save_pretrained(str(tmp_path / "a"))
    adapted = AdaptedBase(load_base(str(tmp_path / "base"), device="cpu"))
    with pytest.raises(UnsupportedAdapter, match=r"head\.attention\.out_proj' is not computed by itself"):
        adapted.attach(Artifact.read(tmp_path / "a"))
    assert not adapted.attached
