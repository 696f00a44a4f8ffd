"""What was trained survives whatever fails later, and the error says where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from adapthub.adapters.errors import OutOfMemory, TrainingError
from adapthub.recipes import evaluate
from adapthub.recipes import outcome as outcomes
from tests.recipes.test_training import train_ner


def test_what_cannot_be_measured_is_kept_and_said(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> Any:
        raise OutOfMemory("out of memory while evaluating", hint="Use a smaller batch_size.")

    with monkeypatch.context() as patch:
        patch.setattr(outcomes, "answers_of", too_large)
        with pytest.raises(OutOfMemory, match=r"kept at .*run.adapter.*smaller batch_size.*--resume .*run"):
            train_ner(tiny_base, ner_data, tmp_path / "run")
    result = train_ner(tiny_base, ner_data, tmp_path / "run", resume=True)
    assert result.metrics["test"]["f1"].n == 12


def test_a_picture_that_cannot_be_drawn_costs_no_adapter(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> bytes:
        raise ValueError("no fonts")

    monkeypatch.setattr("adapthub.recipes.curves.png", broken)
    with pytest.raises(ValueError, match="no fonts"):
        train_ner(tiny_base, ner_data, tmp_path / "run")
    assert evaluate(tmp_path / "run" / "adapter", ner_data / "test.conll").rows == 12


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionResetError("the tracker hung up"), "ended by ConnectionResetError: the tracker hung up"),
        (FileNotFoundError(2, "gone", "/data/1.png"), "ended by FileNotFoundError.*/data/1.png"),
    ],
)
def test_what_others_refuse_is_not_called_a_checkpoint(
    tiny_base: Path, ner_data: Path, tmp_path: Path, error: OSError, said: str
) -> None:
    class Refused(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise error

    with pytest.raises(TrainingError, match=f"{said}.*--resume"):
        train_ner(tiny_base, ner_data, tmp_path / "run", callbacks=[Refused()])
