"""A hub with adapters to look at: versions with metrics and aliases, parents, a base that is known, a signature, a gate, and
adapters that were measured on the same rows."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from cryptography.hazmat.primitives.asymmetric import ec
from matplotlib.image import imsave
from safetensors.numpy import save

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base_record import KnownBase
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.manifest import BaseRecord, Certificate, DataRecord, Drift, Manifest, Metric
from adapthub.hub.bases import add_base
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.gates import Gate, set_gate
from adapthub.hub.lineage import parent_of
from adapthub.hub.namespace_keys import add_key
from adapthub.hub.signing import sign
from adapthub.hub.signing_keys import PublicKey
from adapthub.hub.store import Store
from tests.hub.adapters import fingerprint, known_base

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
TEST = DataRecord(fingerprint=f"sha256:{'7e' * 32}", rows=3453, source="news-test.conll")
CERTIFICATES = {
    form: Certificate(
        reference="float32",
        data=TEST,
        metrics={
            "f1": Drift(
                reference=0.912, value=0.912 + by, difference=by, low=by - 0.004, high=by + 0.003, n=3453
            )
        },
        max_drift=drift,
        mean_drift=drift / 10,
        changed=changed,
        verdict="holds" if changed is None else "worse",
    )
    for form, by, drift, changed in (
        ("nf4", -0.0075, 0.08, 0.0123),
        ("bf16", 0.0, 0.004, None),
    )
}
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
            "data": {
                "train": DataRecord(fingerprint=f"sha256:{'0' * 64}", rows=14041, source="news"),
                "test": TEST,
            },
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


def roberta() -> KnownBase:
    """The record of the base that `write` makes adapters for."""
    names = [
        f"encoder.layer.{layer}.attention.self.{name}" for layer in range(2) for name in ("query", "value")
    ]
    one = known_base(base="org/roberta-base", width=64)
    return one.model_copy(
        update={
            "kinds": dict.fromkeys(names, "linear"),
            "parameters": {f"{name}.weight": (64, 64) for name in names},
        }
    )


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


def fill(hub: EmbeddedHub, folder: Path, *, database: str | None = None) -> None:
    """Push them all, into a hub over this database."""
    store = Store.open(hub.root, database=database)
    with store.database.writing() as session:
        add_base(session, roberta())
    _fill_a_leaderboard(hub, folder)
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
            certificates=CERTIFICATES if number == 4 else {},
        )
        alias = {1: "prod", 3: "staging"}.get(number)
        pushed = hub.push(adapter, "acme/ner", message=MESSAGES[number - 1], alias=alias)
        parents = [parent_of(pushed)]
    hub.promote("acme/ner@v3", "prod")
    key = ec.generate_private_key(ec.SECP256R1())
    hub.attach_signature("acme/ner@v4", sign(adapter.sha256s, key))
    with store.database.writing() as session:
        add_key(session, "acme", "releases", PublicKey.of("releases", key.public_key()).pem)
        set_gate(session, Gate("acme", "ner", "prod", True, ("test/f1",), reviewers=1))
        set_gate(session, Gate("acme", "ner", "staging", evaluations=("test/f1",)))
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


def _fill_a_leaderboard(hub: EmbeddedHub, folder: Path) -> None:
    data = DataRecord(fingerprint=f"sha256:{'5c' * 32}", rows=2000, source="reviews-test.csv")
    for at, (name, accuracy) in enumerate(REVIEWERS.items()):
        found = Metric(value=accuracy, low=accuracy - 0.011, high=accuracy + 0.01, n=2000)
        adapter = write(
            folder / name.replace("/", "-"),
            seed=40 + at,
            base="org/bert-base",
            base_seed=2,
            peft_task="SEQ_CLS",
            task="text-classification",
            labels=("negative", "positive"),
            data={"test": data},
            metrics={"test": {"accuracy": found, "loss": Metric(value=round(1.1 - accuracy, 3), n=2000)}},
        )
        hub.push(adapter, name)


REVIEWERS = {
    "beta/mood": 0.842,
    "zeta/reviews": 0.889,
    "acme/stars": 0.918,
    "delta/tone": 0.926,
    "acme/reviews": 0.931,
}
MESSAGES = ("The first", "Fewer steps\n\nFor a test.", "Rank 8", "More data")
