"""Runs told to Weights & Biases (offline) and trackio, and trackers that are not there."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from transformers import TrainerCallback

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import InvalidSettings, MissingDependency, TrainingInterrupted
from adapthub.recipes import train
from adapthub.recipes.tracking import check_trackers


def test_names_are_checked_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match="there is no tracker 'wandbb'. Did you mean 'wandb'"):
        check_trackers(["wandbb"])
    monkeypatch.setattr("adapthub.recipes.tracking.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="trackio is not installed"):
        train("ner", "none.conll", base="none", track=["trackio"])


def test_the_log_in_a_runs_folder_ends_with_what_it_came_to(
    tiny_base: Path, review_data: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(
        "sentiment", review_data, base=str(tiny_base), output=tmp_path / "run", max_steps=2, batch_size=4,
        max_length=32, quiet=True, report=lambda note: None,
    )  # fmt: skip
    log = EventAccumulator(str(result.run.tensorboard)).Reload()
    assert {"train/loss", "eval/macro_f1"} < set(log.Tags()["scalars"])
    for split in ("validation", "test"):
        for name, estimate in result.metrics[split].items():
            (told,) = log.Scalars(f"{split}/{name}")
            assert (told.step, told.value) == (2, pytest.approx(estimate.value))


def test_a_tracker_that_fails_in_the_end_costs_nothing_else(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*given: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr("adapthub.recipes.tracking._tell_trackers", unreachable)
    notes: list[str] = []
    result = train(
        "sentiment", review_data, base=str(tiny_base), output=tmp_path / "run", max_steps=1, batch_size=4,
        max_length=32, quiet=True, report=notes.append,
    )  # fmt: skip
    assert notes[-1] == "not every tracker heard what the adapter came to: RuntimeError: no connection"
    assert result.run.state == "finished"


@pytest.mark.parametrize("where", ["while it is told", "while the rest is sent"])
def test_an_interruption_while_a_tracker_hears_of_the_end_says_where_the_adapter_is(
    where: str, tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def slow(names: Sequence[str]) -> Iterator[list[TrainerCallback]]:
        yield []
        interrupt()

    if where == "while it is told":
        monkeypatch.setattr("adapthub.recipes.tracking._tell_trackers", interrupt)
    else:
        monkeypatch.setattr("adapthub.recipes.training.tracked", slow)
    run = tmp_path / "run"
    with pytest.raises(
        TrainingInterrupted, match=rf"the trained adapter at {run / 'adapter'}.* --resume {run}"
    ):
        train(
            "sentiment", review_data, base=str(tiny_base), output=run, max_steps=1, batch_size=4, max_length=32,
            quiet=True, report=lambda note: None,
        )  # fmt: skip
    manifest = Artifact.read(run / "adapter").manifest
    assert manifest is not None
    assert set(manifest.metrics) == {"validation", "test"}


@pytest.mark.slow
def test_weights_and_biases_hears_of_a_run_offline(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name, resume in (("first", False), ("second", False), ("second", tmp_path / "second")):
        train(
            "sentiment", review_data, base=str(tiny_base), output=tmp_path / name, max_steps=2, batch_size=4,
            max_length=32, track=["wandb"], resume=resume, quiet=True, report=lambda note: None,
        )  # fmt: skip
        assert wandb.run is None, "a run here is a run there"
    every = [written.read_bytes() for written in sorted(tmp_path.rglob("run-*.wandb"))]
    assert len(every) == 3
    assert [b"train/loss" in told for told in every].count(True) == 2
    for told in every:
        assert (b"eval/macro_f1" in told) == (b"train/loss" in told)
        assert b"validation/macro_f1" in told, "what it came to, also where it was measured again"
        assert b"test/macro_f1" in told
    assert {name for name in (b"first", b"second") if any(name in told for told in every)} == {
        b"first",
        b"second",
    }


@pytest.mark.slow
def test_trackio_hears_of_a_run_and_of_its_end(tiny_base: Path, review_data: Path, tmp_path: Path) -> None:
    """In a process of its own: trackio reads where to write when it is imported."""
    pytest.importorskip("trackio")
    program = (
        "import sys\nfrom adapthub.recipes import train\n"
        "train('sentiment', sys.argv[1], base=sys.argv[2], output=sys.argv[3], max_steps=2, batch_size=4, max_length=32,"
        " track=['trackio'], quiet=True)"
    )
    for name in ("first", "second"):
        subprocess.run(
            [sys.executable, "-c", program, str(review_data), str(tiny_base), str(tmp_path / name)],
            env={**os.environ, "TRACKIO_DIR": str(tmp_path / "told")},
            check=True,
        )
    told: dict[str, set[str]] = {}
    with closing(sqlite3.connect(tmp_path / "told" / "huggingface.db")) as database:
        for name, metrics in database.execute("select run_name, metrics from metrics"):
            told.setdefault(name, set()).update(json.loads(metrics))
    assert told.keys() == {"first", "second"}
    for names in told.values():
        assert {"train/loss", "eval/macro_f1", "validation/macro_f1", "test/macro_f1"} <= names
