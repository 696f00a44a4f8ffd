"""Real pictures on the real EfficientNet-Lite0: trained, measured, published, pulled and served beside another adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.base import load_base
from adapthub.adapters.samples import fetch
from adapthub.hub.embedded import EmbeddedHub
from adapthub.recipes import evaluate, train
from adapthub.runtime import Runtime

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

QUICK: dict[str, Any] = {"max_steps": 24, "batch_size": 16, "eval_rows": 48, "quiet": True}


def some(folder: Path, labels: dict[str, int]) -> list[dict[str, Any]]:
    """So many pictures of each label, spread over the folder."""
    rows = []
    for label, wanted in labels.items():
        paths = sorted((folder / label).glob("*.png"))
        rows += [{"image": path, "label": label} for path in paths[:: max(1, len(paths) // wanted)][:wanted]]
    return rows


def test_digits_and_a_rare_kind_of_emoji(tmp_path: Path) -> None:
    base = load_base("package:efficientnet-lite0")
    hub = EmbeddedHub()
    digits, emoji = fetch("mnist"), fetch("emoji")
    splits = {
        split: some(digits / split, dict.fromkeys("0147", 40)) for split in ("train", "validation", "test")
    }
    first = train(
        "image", splits, base=base, output=tmp_path / "a", name="acme/digits", hub=hub, push=True, **QUICK
    )
    assert first.metrics["test"]["accuracy"].value > 0.85
    assert first.metrics["test"]["macro_f1"].low > 0.75

    # An imbalanced set made of emoji, as no package has medical pictures: flags are the finding.
    counts = {"train": (150, 25), "validation": (40, 12), "test": (40, 20)}
    rare = {
        split: some(emoji / split, dict(zip(("symbols", "flags"), wanted, strict=True)))
        for split, wanted in counts.items()
    }
    second = train(
        "medical-image",
        rare,
        base=base,
        output=tmp_path / "b",
        name="acme/flags",
        hub=hub,
        push=True,
        **QUICK,
    )
    assert second.artifact.labels == ("symbols", "flags")
    assert second.metrics["test"]["auroc"].value > 0.9
    assert second.metrics["test"]["balanced_accuracy"].value > 0.8
    again = evaluate(hub.pull("acme/digits"), splits["test"], base=base)
    assert again.metrics["accuracy"].value == first.metrics["test"]["accuracy"].value

    with Runtime(base, hub=hub) as runtime:
        inputs = [splits["test"][0]["image"], rare["test"][-1]["image"]]
        found = runtime.predict(inputs, ["acme/digits", "acme/flags"])
    assert [one.label for one in found] == ["0", "flags"]
