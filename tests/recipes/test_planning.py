"""The plan says what the run then is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes import plan, train
from adapthub.recipes.catalog import RECIPES
from adapthub.recipes.recipe import PreferringRecipe
from adapthub.recipes.settings import SETTINGS


@pytest.mark.parametrize("method", ["lora", "dora", "prefix"])
def test_the_plan_is_what_the_run_becomes(
    method: str, tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {
        "base": str(tiny_base),
        "method": method,
        "validation": ner_data / "validation.conll",
        "batch_size": 4,
        "epochs": 1,
        "patience": 0,
    }
    planned = plan("ner", ner_data / "train.conll", **arguments)
    result = train("ner", ner_data / "train.conll", output=tmp_path / "run", quiet=True, **arguments)
    history = result.run.history
    assert planned.steps == max(entry["step"] for entry in history) == 6
    assert planned.eval_steps == min(entry["step"] for entry in history if "eval_f1" in entry)
    assert planned.trainable == sum(tensor.numel() for tensor in result.artifact.tensors().values())
    weights = result.artifact.files["adapter_model.safetensors"].size
    assert 0 < weights - planned.adapter_bytes < 8192  # the file's header
    assert planned.settings == result.run.configuration["settings"]
    assert 0 < planned.trainable_share < 1
    assert planned.adapter_share == planned.adapter_bytes / planned.base_bytes
    assert planned.estimated_memory > planned.base_bytes + planned.adapter_bytes
    assert ("lora_plus_ratio" in planned.settings) == (method != "prefix")
    assert [(split.split, split.rows) for split in planned.splits] == [("train", 22), ("validation", 12)]
    assert all(split.supervised == split.targets > 0 == split.truncated for split in planned.splits)
    assert list(planned.notes) == result.run.fact("notes")


def test_a_short_run_of_classes_of_whole_texts_warms_up_longer(
    tiny_base: Path, review_data: Path, ner_data: Path
) -> None:
    given: dict[str, Any] = {"base": str(tiny_base), "max_steps": 40}
    assert plan("sentiment", review_data, **given).settings["warmup"] == 0.2
    assert plan("ner", ner_data / "train.conll", **given).settings["warmup"] == 0.06


def test_nothing_is_written_and_no_weights_are_read(
    tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("adapthub.adapters.base.load_base", None)
    plan("ner", ner_data / "train.conll", base=str(tiny_base))
    assert list(tmp_path.iterdir()) == []


def test_three_samples_show_which_sub_token_has_which_label(tiny_base: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.conll"
    data.write_text("ada B-PER\nwas O\nin O\nlondonx B-LOC\n\n" * 4)
    planned = plan("ner", data, base=str(tiny_base), validation=False)
    samples = planned.samples
    assert len(samples) == 3
    assert samples[0].source == f"{data}:1"
    labelled = [(token, label) for token, _, label in samples[0].rows if label]
    assert labelled == [("ada", "B-PER"), ("was", "O"), ("in", "O"), ("london", "B-LOC")]
    assert ("##x", "", "") in samples[0].rows
    assert planned.eval_steps is None
    assert planned.notes == ("train: 3 of 4 rows repeat an earlier one",)


def test_defaults_come_with_reasons_and_choices_without(tiny_base: Path, ner_data: Path) -> None:
    planned = plan("ner", ner_data / "train.conll", base=str(tiny_base), rank=4)
    assert planned.settings["rank"] == 4
    assert "rank" not in planned.reasons
    assert "linear" in planned.reasons["target_modules"]
    assert "CoNLL-2003" in planned.reasons["learning_rate"]
    chosen = plan("ner", ner_data / "train.conll", base=str(tiny_base), learning_rate=1e-3)
    assert "learning_rate" not in chosen.reasons


def test_every_setting_of_a_run_says_why_it_is_so(tiny_base: Path, ner_data: Path) -> None:
    for found in (
        plan("ner", ner_data / "train.conll", base=str(tiny_base)),
        plan("ner", ner_data / "train.conll", base=str(tiny_base), validation=False),
    ):
        without = [name for name in SETTINGS if name in found.settings and not found.reasons.get(name)]
        assert without == []
    assert found.reasons["max_length"].startswith("no row is longer")
    assert "the last step is kept" in found.reasons["epochs"]
    cut = plan("ner", ner_data / "train.conll", base=str(tiny_base), epochs=2, max_length=6)
    assert {"epochs", "max_length"}.isdisjoint(cut.reasons)


def test_lengths_and_classes_are_shown(tiny_base: Path, review_data: Path, ner_data: Path) -> None:
    train = plan("sentiment", review_data, base=str(tiny_base)).splits[0]
    assert sum(train.classes.values()) == train.rows
    assert list(train.classes.values()) == sorted(train.classes.values(), reverse=True)
    assert 0 < train.lengths["median"] <= train.lengths["p95"] <= train.lengths["longest"] <= 64
    entities = plan("ner", ner_data / "train.conll", base=str(tiny_base)).splits[0]
    assert any(label.startswith("B-") for label in entities.classes)
    assert max(entities.classes.values()) <= entities.rows
    assert entities.lengths["longest"] > 3


def test_what_does_not_fit_is_said_with_what_would(
    tiny_base: Path, ner_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(free: int, **settings: Any) -> Any:
        monkeypatch.setattr("adapthub.recipes.planning.free_memory", lambda device: free)
        return plan("ner", ner_data / "train.conll", base=str(tiny_base), **settings)

    needed = planned(1 << 40).estimated_memory
    assert not any(note.startswith("memory") for note in planned(needed).notes)
    *_, note = planned(needed - 1).notes
    assert note.startswith(
        "memory: some 0.0 GB are needed and 0.0 GB are free; batch_size=31 or quantize='nf4' would fit"
    )
    assert planned(needed - 1, batch_size=31).notes[-1] != note
    whole, small = planned(needed), planned(needed, quantize="nf4")
    assert small.base_bytes < whole.base_bytes
    one = planned(needed, batch_size=1).estimated_memory
    *_, note = planned(one - 1).notes
    assert "GB are free; quantize='nf4'" in note
    assert note.endswith(" would fit, or a smaller base")
    *_, note = planned(one - 1, quantize="nf4", batch_size=1).notes
    assert not note.startswith("memory")
    *_, note = planned(1).notes
    assert note.endswith("; a smaller base would fit")


def test_weights_in_two_precisions_are_needed_by_one_row_as_by_many(
    tiny_base: Path, ner_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a float32 base that is computed in bfloat16; nf4 has them once."""
    monkeypatch.setattr("adapthub.recipes.planning.choose_dtype", lambda dtype, device: torch.float32)

    def planned(batch_size: int, free: int = 1 << 40, **settings: Any) -> Any:
        monkeypatch.setattr("adapthub.recipes.planning.free_memory", lambda device: free)
        return plan(
            "ner", ner_data / "train.conll", base=str(tiny_base), batch_size=batch_size, precision="bf16", **settings
        )  # fmt: skip

    one = planned(1).estimated_memory
    assert "; batch_size=1 or quantize='nf4' would fit" in planned(2, one).notes[-1]
    assert "; quantize='nf4' would fit" in planned(2, one - 1).notes[-1]
    small = planned(1, quantize="nf4").estimated_memory
    assert "; quantize='nf4' with batch_size=1 would fit" in planned(2, small).notes[-1]
    assert planned(2, small - 1).notes[-1].endswith("; a smaller base would fit")


def test_a_batch_that_is_computed_in_parts_takes_what_a_part_takes(
    tiny_base: Path, ner_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what shorter rows fill of it; and what is said to fit is fewer rows than a part has."""

    def planned(batch_size: int, free: int = 1 << 40) -> Any:
        monkeypatch.setattr("adapthub.recipes.planning.free_memory", lambda device: free)
        return plan("ner", ner_data / "train.conll", base=str(tiny_base), batch_size=batch_size)

    longest = planned(1).splits[0].lengths["longest"]
    monkeypatch.setattr("adapthub.recipes.planning.PASS_TOKENS", 5 * longest)
    needed = planned(5).estimated_memory
    assert planned(4).estimated_memory < needed == planned(16).estimated_memory
    *_, note = planned(16, needed - 1).notes
    assert "batch_size=4 or" in note

    monkeypatch.setattr("adapthub.recipes.planning.PASS_TOKENS", 2 * longest - 2)
    part = planned(16).estimated_memory
    assert planned(1).estimated_memory < part == planned(2).estimated_memory
    monkeypatch.setattr("adapthub.recipes.planning.PASS_TOKENS", 2 * longest)
    assert part < planned(2).estimated_memory
    monkeypatch.setattr("adapthub.recipes.planning.PASS_TOKENS", longest - 1)  # one row is never cut
    assert planned(1).estimated_memory == planned(16).estimated_memory


def test_every_recipe_says_why_it_learns_so_fast() -> None:
    for recipe in RECIPES.values():
        if not isinstance(recipe, PreferringRecipe):  # whose reasons depend on the objective
            assert recipe.defaults("lora").reasons["learning_rate"], recipe.name


def test_what_is_cut_is_said(tiny_base: Path, ner_data: Path) -> None:
    planned = plan("ner", ner_data / "train.conll", base=str(tiny_base), max_length=6)
    train = planned.splits[0]
    assert train.truncated > 0
    assert train.supervised < train.targets
    assert any(
        note.startswith(f"train: max_length cuts {train.truncated} of 20 rows;") for note in planned.notes
    )


def test_a_folder_is_planned_with_its_splits(tiny_base: Path, ner_data: Path) -> None:
    planned = plan("ner", ner_data, base=str(tiny_base), validation=False)
    assert [split.split for split in planned.splits] == ["train", "test"]


def test_a_plan_refuses_what_training_would(tiny_base: Path, ner_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"unknown task 'nerr'.*'ner'"):
        plan("nerr", ner_data / "train.conll", base=str(tiny_base))
    (tmp_path / "empty.conll").touch()
    with pytest.raises(InvalidData, match=r"empty\.conll"):
        plan("ner", tmp_path / "empty.conll", base=str(tiny_base))
