"""Small adapter folders for the hub's tests, written without torch: plain PEFT, or with a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base_record import KnownBase
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.fingerprint import Fingerprint
from adapthub.adapters.manifest import BaseRecord, Manifest, Metric

MODULE = "base_model.model.encoder.layer.0.attention.self.query"


def fingerprint(seed: int = 0) -> Fingerprint:
    """A fingerprint of its own for each seed."""
    configuration, tokenizer, shapes, weights = (sha256_bytes(f"{seed} {part}".encode()) for part in range(4))
    return Fingerprint(configuration, tokenizer, shapes, weights)


def manifest(
    *,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    base: str = "org/base",
    base_seed: int = 0,
    method: str = "lora",
    **fields: Any,
) -> Manifest:
    """A manifest; `metrics` maps split to name to value, each over 100 rows with an interval of 0.1 around
    it."""
    return Manifest(
        base=BaseRecord(id=base, fingerprint=fingerprint(base_seed)),
        method=method,
        metrics={
            split: {name: Metric(value=v, low=v - 0.05, high=v + 0.05, n=100) for name, v in values.items()}
            for split, values in (metrics or {}).items()
        },
        **{"task": "token-classification", "labels": ("O", "B-PER"), **fields},
    )


def write_adapter(
    folder: Path, *, seed: int = 0, manifest: Manifest | None = None, card: str | None = None, width: int = 8
) -> Artifact:
    """Write a LoRA of rank 2 whose weights follow from `seed`, 16 * `width` bytes of them, and read it."""
    config = {
        "peft_type": "LORA",
        "task_type": "TOKEN_CLS",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["query"],
        "base_model_name_or_path": "org/base" if manifest is None else manifest.base.id,
    }
    weights = numpy.random.default_rng(seed).standard_normal((2, width), dtype=numpy.float32)
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(
            {f"{MODULE}.lora_A.weight": weights, f"{MODULE}.lora_B.weight": weights.T.copy()},
            metadata={"format": "pt"},
        ),
    }
    if card is not None:
        files["README.md"] = card.encode()
    if manifest is not None:
        digests = {name: sha256_bytes(data) for name, data in files.items()}
        files["adapthub.json"] = manifest.model_copy(update={"files": digests}).to_json()
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Artifact.read(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of an adapter's folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def known_base(
    *, base: str = "org/base", base_seed: int = 0, width: int = 8, module: str = MODULE
) -> KnownBase:
    """The record of a base of one layer that `write_adapter` makes adapters for."""
    name = module.removeprefix("base_model.model.")
    return KnownBase(
        id=base,
        revision=None,
        fingerprint=fingerprint(base_seed),
        model_type="bert",
        prefix="bert",
        backbone="",
        output=None,
        hidden_size=width,
        layers=1,
        key_value_heads=1,
        head_size=width,
        kinds={name: "linear"},
        parameters={f"{name}.weight": (width, width), f"{name}.bias": (width,)},
    )
