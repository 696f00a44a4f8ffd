"""A hub with adapters to look at: three versions with metrics and aliases, parents, a private one, a plain one."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib.image import imsave
from safetensors.numpy import save

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.manifest import BaseRecord, DataRecord, Manifest, Metric
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lineage import parent_of
from tests.hub.adapters import fingerprint

CARD = """---
license: mit
language: en
pipeline_tag: token-classification
---
# Names in English news

Finds people, places and organisations. *Trained* on 14,041 sentences; see [how it was measured](#results) and
the [configuration](adapter_config.json).

![Loss over steps](loss.png)

## Results

| split | f1 | rows |
|---|---|---|
| test | 0.912 | 3,453 |
| validation | 0.934 | 3,250 |

```python
entities = runtime.predict(["Ada was born in London."], adapters=["acme/ner"])
```
"""
LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
GENERATES: Mapping[str, Any] = {"task": "text-generation", "labels": None}


def write(
    folder: Path,
    *,
    seed: int,
    rank: int = 4,
    f1: float | None = None,
    card: str | None = None,
    peft_task: str = "TOKEN_CLS",
    images: Mapping[str, bytes] | None = None,
    weights: Mapping[str, numpy.ndarray] | None = None,
    **fields: Any,
) -> Artifact:
    """An adapter of two layers whose weights follow from `seed`; `fields` are the manifest's."""
    base = fields.pop("base", "org/roberta-base")
    base_seed = fields.pop("base_seed", 0)
    generator = numpy.random.default_rng(seed)
    tensors = dict(weights or {})
    for layer in range(2):
        for name in ("query", "value"):
            module = f"base_model.model.encoder.layer.{layer}.attention.self.{name}"
            tensors[f"{module}.lora_A.weight"] = generator.standard_normal((rank, 64), dtype=numpy.float32)
            tensors[f"{module}.lora_B.weight"] = generator.standard_normal((64, rank), dtype=numpy.float32)
    config = {
        "peft_type": "LORA",
        "task_type": peft_task,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["query", "value"],
        "base_model_name_or_path": base,
    }
    files = {
        "adapter_config.json": json.dumps(config, indent=2).encode(),
        "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
        **(images or {}),
    }
    if card is not None:
        files["README.md"] = card.encode()
    metrics = {} if f1 is None else {"test": measured(f1, 3453), "validation": measured(f1 + 0.02, 3250)}
    described = Manifest(
        **{
            "task": "token-classification",
            "labels": LABELS,
            "base": BaseRecord(id=base, fingerprint=fingerprint(base_seed)),
            "method": "lora",
            "recipe": "ner",
            "seed": seed,
            "data": {"train": DataRecord(fingerprint="0" * 64, rows=14041, source="news")},
            "libraries": {"peft": "0.21.2", "torch": "2.13.0"},
            "metrics": metrics,
            "files": {name: sha256_bytes(data) for name, data in files.items()},
            **fields,
        }
    )
    files["adapthub.json"] = described.to_json()
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Artifact.read(folder)


def measured(f1: float, rows: int) -> dict[str, Metric]:
    """An f1 with its interval, and a loss without one."""
    return {
        "f1": Metric(value=f1, low=f1 - 0.012, high=f1 + 0.011, n=rows),
        "loss": Metric(value=round(1 - f1, 3), n=rows),
    }


def picture() -> bytes:
    """A small PNG: a curve that falls."""
    pixels = numpy.full((120, 320, 3), 246, dtype=numpy.uint8)
    for x in range(320):
        y = int(20 + 90 * (1 - 2.718 ** (-x / 80)))
        pixels[y : y + 3, x] = (31, 111, 180)
    data = io.BytesIO()
    imsave(data, pixels, format="png")
    return data.getvalue()


def fill(hub: EmbeddedHub, folder: Path) -> None:
    """Push them all."""
    news = hub.push(write(folder / "news", seed=20, f1=0.81, labels=LABELS), "acme/ner-news", message="first")
    legal = hub.push(write(folder / "legal", seed=21, f1=0.78), "acme/ner-legal", message="contracts")
    parents: Sequence[str] = [parent_of(news), parent_of(legal), f"other/gone@{'ab' * 32}"]
    for number, f1 in enumerate((0.874, 0.861, 0.903, 0.912), 1):
        adapter = write(
            folder / f"ner-{number}",
            seed=number // 2,
            rank=4 if number < 3 else 8,
            f1=f1,
            card=CARD,
            images={"loss.png": picture()},
            parents=list(parents),
        )
        alias = {1: "prod", 3: "staging"}.get(number)
        pushed = hub.push(adapter, "acme/ner", message=MESSAGES[number - 1], alias=alias)
        parents = [parent_of(pushed)]
    hub.promote("acme/ner@v3", "prod")
    for at, name in enumerate(("acme/tone", "zeta/support", "zeta/titles", "beta/notes")):
        adapter = write(
            folder / name.replace("/", "-"),
            seed=30 + at,
            base="org/llama-1b",
            base_seed=1,
            peft_task="CAUSAL_LM",
            rank=4 * (1 + at % 2),
            **GENERATES,
        )
        hub.push(adapter, name, message="by hand")


MESSAGES = ("The first", "Fewer steps\n\nFor a test.", "Rank 8", "More data")
