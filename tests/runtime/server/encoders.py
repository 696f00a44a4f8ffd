"""A hub of adapters for the tiny encoder: one a task, with the labels that their manifests name."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.adapters.tasks import Task
from adapthub.hub import open_hub
from adapthub.hub.registry import Registry
from tests.adapters.peft_oracle import LINEAR, lora_config, save_adapter
from tests.adapters.test_features import save_encoder

LABELS: dict[str, tuple[Task, tuple[str, ...]]] = {
    "acme/ner": ("token-classification", ("O", "B-PER", "I-PER")),
    "acme/mood": ("text-classification", ("bad", "fine", "good")),
    "acme/nli": ("text-classification", ("contradiction", "neutral", "entailment")),
}


def write_encoder_hub(base: Path, folder: Path) -> Registry:
    """The adapters of LABELS, and acme/vectors without a head."""
    hub = open_hub(folder / "hub")
    fingerprint = load_base(str(base), device="cpu").fingerprint
    for seed, (name, (task, labels)) in enumerate(LABELS.items(), start=6):
        plain = save_adapter(
            base, folder / f"{seed}-plain", task, lora_config(task), labels=len(labels), seed=seed
        )
        read = Artifact.read(plain)
        manifest = Manifest(
            task=task, labels=labels, base=BaseRecord(id=str(base), fingerprint=fingerprint), method="lora"
        )
        path = folder / str(seed)
        write_artifact(path, manifest=manifest, card="card\n", config=read.config, tensors=read.tensors())
        hub.push(Artifact.read(path), name, alias="prod")
    vectors = LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=LINEAR, r=4, init_lora_weights=False)
    hub.push(Artifact.read(save_encoder(base, folder / "vectors", vectors)), "acme/vectors")
    return hub
