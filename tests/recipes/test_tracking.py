"""Runs told to Weights & Biases (offline), and trackers that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapthub.adapters.errors import InvalidSettings, MissingDependency
from adapthub.recipes import train
from adapthub.recipes.tracking import check_trackers


def test_names_are_checked_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match="there is no tracker 'wandbb'. Did you mean 'wandb'"):
        check_trackers(["wandbb"])
    monkeypatch.setattr("adapthub.recipes.tracking.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="trackio is not installed"):
        train("ner", "none.conll", base="none", track=["trackio"])


@pytest.mark.slow
def test_weights_and_biases_hears_of_a_run_offline(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("first", "second"):
        train(
            "sentiment", review_data, base=str(tiny_base), output=tmp_path / name, max_steps=2, batch_size=4,
            max_length=32, track=["wandb"], quiet=True, report=lambda note: None,
        )  # fmt: skip
        assert wandb.run is None, "a run here is a run there"
    every = [written.read_bytes() for written in sorted(tmp_path.rglob("run-*.wandb"))]
    assert len(every) == 2
    for told in every:
        assert b"train/loss" in told
        assert b"eval/macro_f1" in told
    assert {name for name in (b"first", b"second") if any(name in told for told in every)} == {
        b"first",
        b"second",
    }
