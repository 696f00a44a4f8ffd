"""Small random models that read pictures, one a family, and what plain PEFT computes with adapters of theirs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForImageClassification,
    BitsAndBytesConfig,
    ConvNextConfig,
    EfficientNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from adapthub.adapters.quantized import steady

SIDE = 32
FAMILIES: dict[str, PreTrainedConfig] = {
    "vit": ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=SIDE,
        patch_size=8,
        initializer_range=0.2,
    ),
    "resnet": ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24],
        depths=[1, 2],
        layer_type="basic",
        downsample_in_first_stage=True,
    ),
    "convnext": ConvNextConfig(hidden_sizes=[16, 24], depths=[1, 1], num_stages=2, patch_size=4),
    "efficientnet": EfficientNetConfig(
        image_size=SIDE,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 5],
        strides=[1, 2],
        num_block_repeats=[1, 2],
        expand_ratios=[1, 4],
    ),
    "swin": SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    ),
}


def write_base(folder: Path, family: str, *, seed: int = 0, labels: int = 4) -> Path:
    """The family's classifier with random weights, its normalisations' statistics too, and a processor for SIDE x SIDE."""
    torch.manual_seed(seed)
    config = FAMILIES[family]
    config.num_labels = labels
    model: Any = AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def load_plain(base: Path, labels: int, quantize: str | None = None) -> PreTrainedModel:
    """The classifier as a user of transformers loads it, with a fresh head of `labels` outputs."""
    options: dict[str, Any] = {}
    if quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["classifier"],
        )
    if quantize == "int8":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=["classifier"]
        )
    torch.manual_seed(99)
    auto: Any = AutoModelForImageClassification
    model = auto.from_pretrained(
        base, num_labels=labels, ignore_mismatched_sizes=True, dtype=torch.float32, **options
    )
    steady(model)
    return cast(PreTrainedModel, model.eval())


def lora_config(targets: str | list[str], **options: Any) -> LoraConfig:
    """As PEFT's example for image classification writes it, with random A and B."""
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "init_lora_weights": False,
        "modules_to_save": ["classifier"],
    }
    return LoraConfig(target_modules=targets, **(settings | options))


def save_adapter(base: Path, folder: Path, config: PeftConfig, *, labels: int = 3, seed: int = 0) -> Path:
    """Make an adapter with random weights of a size that matters and save it as PEFT does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that layers with groups cannot be merged
        model = get_peft_model(load_plain(base, labels), config)
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
    pictures: Sequence[torch.Tensor],
    *,
    labels: int = 3,
    quantize: str | None = None,
) -> list[torch.Tensor]:
    """What plain PEFT computes for each picture alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_plain(base, labels, quantize), str(folder)).eval()
        with torch.inference_mode():
            return [
                model(pixel_values=picture[None].to(model.device)).logits[0].float().cpu()
                for picture in pictures
            ]
