"""Two adapters on one set: as `evaluate` measures each, the base loaded once, and a sentence that says who is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes import certify, compare, comparison, evaluate, train
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.conftest import write_ner
from tests.recipes.test_translate import pairs
from tests.recipes.tokenizer_kinds import byte_level, sentencepiece

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SETTINGS: dict[str, Any] = {"batch_size": 8, "learning_rate": 5e-3, "validation": False, "quiet": True}


@pytest.fixture(scope="module")
def adapters(
    tiny_base: Path, ner_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Artifact]:
    """One that has hardly begun to learn, and one that went on from it."""
    folder = tmp_path_factory.mktemp("adapters")
    data = ner_data / "train.conll"
    start = train("ner", data, base=str(tiny_base), output=folder / "a", max_steps=1, **SETTINGS).artifact
    return start, train("ner", data, start=start, output=folder / "b", max_steps=120, **SETTINGS).artifact


@pytest.fixture(scope="module")
def test_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ner(tmp_path_factory.mktemp("data") / "test.conll", 40, seed=8)


def test_the_better_one_is_named_with_what_evaluate_says(
    adapters: tuple[Artifact, Artifact], test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def load(*given: Any, **more: Any) -> Base:
        loads.append(given)
        return load_base(*given, **more)

    monkeypatch.setattr(comparison, "load_base", load)
    found = compare(*adapters, test_data)
    assert len(loads) == 1
    assert (found.rows, found.source) == (40, str(test_data))
    assert found.better == adapters[1].digest
    assert list(found.metrics) == ["f1", "precision", "recall", "f1/LOC", "f1/PER"]
    for side, artifact in zip(("first", "second"), adapters, strict=True):
        alone = evaluate(artifact, test_data)
        assert {name: getattr(one, side) for name, one in found.metrics.items()} == {
            name: estimate.value for name, estimate in alone.metrics.items()
        }
    f1 = found.metrics["f1"]
    assert 0 < f1.low <= f1.difference <= f1.high
    assert f1.p < 0.01
    words = found.sentence("old", "new")
    assert words.startswith(
        f"new is better: f1 is {f1.second:.4f} against {f1.first:.4f} for old, a difference of"
    )
    turned = compare(*adapters[::-1], test_data)
    assert turned.better == adapters[1].digest
    assert turned.sentence("new", "old").startswith("new is better")
    assert turned.metrics["f1"].difference == -f1.difference


def test_one_adapter_is_no_better_than_itself(adapters: tuple[Artifact, Artifact], test_data: Path) -> None:
    found = compare(adapters[1].path, adapters[1].path, test_data, quantize="none")
    assert found.better is None
    words = found.sentence("a", "b")
    assert words.startswith("The data cannot tell which is better: f1 is")
    assert words.endswith("+0.0000 [+0.0000, +0.0000], p 1 over 40 examples.")


@pytest.mark.slow
def test_each_is_measured_over_its_base_as_it_was_trained(
    adapters: tuple[Artifact, Artifact], tiny_base: Path, ner_data: Path, test_data: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "max_steps": 30, "quantize": "nf4", "base": str(tiny_base)}
    quantised = train("ner", ner_data / "train.conll", output=tmp_path / "run", **settings).artifact
    found = compare(adapters[1], quantised, test_data)
    own = evaluate(quantised, test_data, quantize="nf4").metrics["f1"].value
    assert found.metrics["f1"].second == own
    assert compare(adapters[1], quantised, test_data, quantize="nf4").metrics["f1"].second == own


def test_unlike_adapters_are_refused(
    adapters: tuple[Artifact, Artifact], tiny_base: Path, review_data: Path, test_data: Path, tmp_path: Path
) -> None:
    mood = train(
        "sentiment", review_data, base=str(tiny_base), output=tmp_path / "run", max_steps=1, quiet=True
    ).artifact
    with pytest.raises(
        InvalidSettings,
        match="an adapter for ner with the labels O, B-LOC, B-PER and an adapter for sentiment with .* cannot be compared",
    ):
        compare(adapters[0], mood, test_data)
    with pytest.raises(InvalidSettings, match="'colour'"):
        compare(*adapters, test_data, colour=1)
    with pytest.raises(InvalidData, match="no such file"):
        compare(*adapters, tmp_path / "gone.conll")


def test_losses_of_other_tokens_are_not_compared(tmp_path: Path) -> None:
    """Of the same texts a model with longer tokens has fewer of them, each harder."""
    data = pairs(12, seed=8)
    made = []
    for name, tokenizer in (("bytes", byte_level()), ("pieces", sentencepiece())):
        base = tmp_path / name
        write_causal_base(
            base, vocab_size=len(tokenizer), max_position_embeddings=128, eos_token_id=tokenizer.eos_token_id
        )
        tokenizer.save_pretrained(base)
        run = train(
            "translate", data, base=str(base), validation=False, output=tmp_path / f"run-{name}", max_steps=1,
            batch_size=4, max_length=64, quiet=True,
        )  # fmt: skip
        made.append(run.artifact)
    first, second = made
    assert compare(first, first, data[:3], answered=1).metrics.keys() == {"chrf", "bleu", "loss"}
    assert compare(first, second, data[:3], answered=1).metrics.keys() == {"chrf", "bleu"}
    with pytest.raises(InvalidSettings, match="where the bases' tokenizers differ, and no texts are written"):
        compare(first, second, data[:3], answered=0)


def test_where_a_column_names_groups_intervals_are_of_them_and_that_is_said(
    tiny_base: Path, tmp_path: Path
) -> None:
    """In training, evaluation, comparison and certification: reviews by few people, each of whom writes one thing."""
    rows = [
        {"text": f"the film is {word}", "label": label, "author": f"{label} {at % 3}"}
        for at in range(24)
        for word, label in (("great", "good"), ("dull", "bad"))
    ]
    heard: list[str] = []
    given: dict[str, Any] = {**SETTINGS, "max_steps": 1, "base": str(tiny_base), "test": rows}
    made = train(
        "sentiment", rows, output=tmp_path / "run", group_column="author", report=heard.append, **given,
    )  # fmt: skip
    said = "intervals: rows of one author are resampled together, 6 groups of 48 rows"
    assert any(line.startswith(f"test: {said}") for line in heard)
    found = evaluate(made.artifact, rows, group_column="author")
    assert found.notes[-1].startswith(said)
    assert found.metrics == made.metrics["test"]
    plain = evaluate(made.artifact, rows)
    assert not any("intervals" in note for note in plain.notes)
    assert plain.metrics["accuracy"].value == found.metrics["accuracy"].value
    assert plain.metrics["accuracy"] != found.metrics["accuracy"]
    (note,) = compare(made.artifact, made.artifact, rows, group_column="author").notes
    assert note.startswith(said)
    certified = certify(made.artifact, rows, forms=("bf16",), group_column="author")
    assert certified.notes == (note,)
    assert made.artifact.manifest is not None
    data = made.artifact.manifest.data
    assert (data["train"].groups, data["test"].groups, certified.certificates["bf16"].data.groups) == (
        None,
        6,
        6,
    )
    card = (made.artifact.path / "README.md").read_text()
    assert "48 rows in 6 groups (intervals are of groups)" in card
    one = [{**row, "author": "ada"} for row in rows]
    assert evaluate(made.artifact, one, group_column="author").metrics == plain.metrics
