"""The adapters of the hub that schema 1 wrote: `hub.sql` is its database, `answers.json` what it then said of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from adapthub.adapters.artifact import Artifact
from tests.hub.adapters import manifest, write_adapter


def write_adapters(folder: Path) -> dict[str, Artifact]:
    """The same bytes every time."""
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    measured = {"test": {"f1": 0.8, "loss": 0.4}, "validation": {"f1": 0.7}, "train": {"f1": 0.99}}
    return {
        "plain": write_adapter(folder / "plain"),
        "ner": write_adapter(
            folder / "ner", seed=1, card="# Übersicht", manifest=manifest(metrics=measured, created=when)
        ),
        "dora": write_adapter(
            folder / "dora",
            seed=2,
            manifest=manifest(method="dora", base_seed=1, labels=("O", "B-X"), created=when),
        ),
    }
