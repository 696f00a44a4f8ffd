"""Adapters to publish: a LoRA in PEFT's layout, of so many bytes of random weights. Publishes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file

from adapthub.adapters.admission import CARD, CONFIG, WEIGHTS
from adapthub.adapters.artifact import Artifact

MEGABYTE = 1_000_000
_RANK = 16


def write_adapter(folder: Path, seed: int, size: int) -> Artifact:
    """A LoRA of about `size` bytes over one linear layer, whose weights follow from `seed`."""
    folder.mkdir(parents=True)
    width = max(1, size // (2 * 4 * _RANK))
    random = numpy.random.default_rng(seed)
    module = "base_model.model.layer.query"
    tensors = {
        f"{module}.lora_A.weight": random.standard_normal((_RANK, width), dtype=numpy.float32),
        f"{module}.lora_B.weight": random.standard_normal((width, _RANK), dtype=numpy.float32),
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "target_modules": ["query"],
        "base_model_name_or_path": "acme/base",
    }
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / CARD).write_text(f"---\nlibrary_name: peft\n---\n# Adapter {seed}\n")
    return Artifact.read(folder)
