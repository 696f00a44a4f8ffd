"""`evaluate` measures the served adapter, and measures it the same however it is batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import BaseMismatch, InvalidData, InvalidSettings
from adapthub.recipes import TrainingResult, evaluate, train


@pytest.fixture(scope="module")
def trained(tiny_base: Path, ner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    settings: dict[str, Any] = {"batch_size": 8, "max_steps": 150, "learning_rate": 5e-3, "validation": False}
    settings |= {"rank": 16, "alpha": 32, "lora_plus_ratio": 1.0}
    output = tmp_path_factory.mktemp("trained") / "run"
    test = ner_data / "test.conll"
    return train(
        "ner", ner_data / "train.conll", base=str(tiny_base), test=test, output=output, quiet=True, **settings
    )


def test_it_gives_what_training_reported(trained: TrainingResult, ner_data: Path) -> None:
    evaluation = evaluate(trained.artifact.path, ner_data / "test.conll")
    assert evaluation.metrics == trained.metrics["test"]
    assert evaluation.metrics["f1"].value > 0.5
    assert evaluation.digest == trained.artifact.digest
    assert (evaluation.rows, evaluation.truncated) == (12, 0)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_changes_nothing(trained: TrainingResult, ner_data: Path, batch_size: int) -> None:
    evaluation = evaluate(trained.artifact, ner_data / "test.conll", batch_size=batch_size)
    assert evaluation.metrics == trained.metrics["test"]


def test_a_base_that_is_loaded_is_used_and_left_alone(
    trained: TrainingResult, tiny_base: Path, ner_data: Path
) -> None:
    base = load_base(str(tiny_base), quantize="nf4")
    evaluation = evaluate(trained.artifact, ner_data / "test.conll", base=base)
    assert evaluation.rows == 12
    assert not any(module._forward_hooks for module in base.model.modules())


def test_the_base_is_held_as_it_was_trained_unless_said(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"quantize": "nf4", "max_steps": 1, "output": tmp_path / "run", "quiet": True}
    made = train("ner", ner_data, base=str(tiny_base), **given)
    held = []

    def load(ref: str, *, quantize: str | None, **options: Any) -> Base:
        held.append(quantize)
        return load_base(ref, quantize=quantize, **options)

    monkeypatch.setattr("adapthub.recipes.evaluation.load_base", load)
    assert evaluate(made.artifact, ner_data / "test.conll").metrics == made.metrics["test"]
    evaluate(made.artifact, ner_data / "test.conll", quantize="none")
    assert held == ["nf4", None]


def test_another_base_is_refused(
    trained: TrainingResult, tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(tiny_base)
    model.embeddings.word_embeddings.weight.data += 1
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "other")
    with pytest.raises(BaseMismatch, match="weights"):
        evaluate(trained.artifact, ner_data / "test.conll", base=str(tmp_path / "other"))


def test_a_label_that_training_never_saw_is_refused(trained: TrainingResult, tmp_path: Path) -> None:
    data = tmp_path / "test.conll"
    data.write_text("ada B-PER\nacme B-ORG\n")
    with pytest.raises(InvalidData, match=r"test\.conll:2: label 'B-ORG'"):
        evaluate(trained.artifact, data)


def test_an_adapter_from_elsewhere_has_no_recipe(
    trained: TrainingResult, ner_data: Path, tmp_path: Path
) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((trained.artifact.path / name).read_bytes())
    with pytest.raises(InvalidSettings, match="does not say its recipe"):
        evaluate(tmp_path, ner_data / "test.conll")
