"""The recipe `speech`: recordings read from wherever they lie, trained, measured and served as one."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch

from adapthub.adapters.audio import read_sound
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.hub import open_hub
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.evaluation import answers_of, evaluate
from adapthub.recipes.merging import merged_answers
from adapthub.recipes.planning import plan
from adapthub.recipes.processors import load_processor
from adapthub.recipes.speech_metrics import speech_statistics
from adapthub.recipes.training import TrainingResult, train
from adapthub.runtime import Runtime
from tests.adapters.speech_bases import tone, wav
from tests.adapters.speech_oracle import by_peft

SAID = ["ada was born", "bob met alice", "she works at acme", "the film is dull", "a fine story", "in berlin"]


def write_folder(folder: Path, texts: list[str], *, seed: int = 0, rate: int = 8_000) -> Path:
    """As `datasets` reads audio folders."""
    folder.mkdir(parents=True)
    rows = ["file_name,transcription"]
    for at, text in enumerate(texts):
        (folder / f"{at}.wav").write_bytes(wav(tone(1.2, seed=seed + at, rate=rate), rate))
        rows.append(f"{at}.wav,{text}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the three splits. Do not write into them."""
    root = tmp_path_factory.mktemp("spoken")
    for at, (split, texts) in enumerate({"train": SAID, "validation": SAID[:2], "test": SAID[2:4]}.items()):
        write_folder(root / split, texts, seed=10 * at)
    return root


def read(source: Any, **options: Any) -> Dataset:
    return find_recipe("speech").read(source, **options)


def test_one_set_from_everywhere(spoken: Path, tmp_path: Path) -> None:
    """Folder, table, rows and datasets' Audio column: the fingerprint is of what is heard and said."""
    from datasets import Audio
    from datasets import Dataset as Table

    folder = read(spoken / "train")
    files = [str(spoken / "train" / f"{at}.wav") for at in range(len(SAID))]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"path": path, "text": text}) for path, text in zip(files, SAID, strict=True))
    )
    rows = [{"audio": Path(path).read_bytes(), "text": text} for path, text in zip(files, SAID, strict=True)]
    table = Table.from_dict({"audio": files, "sentence": SAID}).cast_column("audio", Audio())
    cells = [{"bytes": row["audio"], "path": "a.wav"} for row in rows]
    parquet = {"named": files, "held": [row["audio"] for row in rows], "mapped": cells}
    for name, column in parquet.items():
        written = pyarrow.table({"audio": column, "text": SAID})
        pyarrow.parquet.write_table(written, tmp_path / f"{name}.parquet")
        assert read(tmp_path / f"{name}.parquet").fingerprint == folder.fingerprint
    for other in (tmp_path / "rows.jsonl", rows, table):
        assert read(other).fingerprint == folder.fingerprint
    assert [example.fields["target"] for example in folder] == SAID
    assert folder.notes == ("6 recordings, 0.1 minutes: 6 at 8000 Hz; each is resampled to the base's rate",)


def test_a_table_of_recordings_stays_on_the_disk(tmp_path: Path) -> None:
    sounds = [wav(tone(40, seed=at, rate=8_000), 8_000) for at in range(4)]
    size, cells = sum(map(len, sounds)), [{"bytes": sound, "path": None} for sound in sounds]
    pyarrow.parquet.write_table(pyarrow.table({"audio": cells, "text": SAID[:4]}), tmp_path / "a.parquet")
    del sounds, cells
    read(tmp_path / "a.parquet")  # what is imported stays
    tracemalloc.start()
    try:
        dataset = read(tmp_path / "a.parquet")
        assert tracemalloc.get_traced_memory()[0] < size / 4
    finally:
        tracemalloc.stop()
    assert len(dataset) == 4


def test_samples_in_memory() -> None:
    stereo = np.stack([tone(0.5), tone(0.5, seed=1)], axis=1)
    dataset = read(
        [
            {"audio": (stereo, 16_000), "text": "a  b\n"},
            {"audio": {"array": tone(0.5), "sampling_rate": 22_050}, "text": "c"},
        ]
    )
    assert dataset[0].fields["target"] == "a b"
    assert "1 recordings have several channels, which are mixed down to one" in dataset.notes


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("gone.wav,hello", r"metadata.csv:3: gone.wav: No such file"),
        ("page.wav,hello", r"metadata.csv:3: page.wav: not a recording that can be decoded"),
        ("empty.wav,hello", r"metadata.csv:3: empty.wav: the recording is empty"),
        ("0.wav,", r"metadata.csv:3: the transcript in column 'transcription' is empty"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, row: str, said: str) -> None:
    folder = write_folder(tmp_path / "train", ["hello"])
    (folder / "page.wav").write_text("<html>")
    (folder / "empty.wav").write_bytes(wav(np.zeros(0, np.float32)))
    (folder / "metadata.csv").write_text(f"file_name,transcription\n0.wav,hello\n{row}\n")
    with pytest.raises(InvalidData, match=said):
        read(folder)


def test_a_part_of_a_file_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    """NeMo's manifests name one file in many rows, by where each begins."""
    folder = write_folder(tmp_path / "train", ["hello"])
    row = {"audio_filepath": str(folder / "0.wav"), "text": "hello", "duration": 0.1, "offset": 0.0}
    assert len(read([row])) == 1
    with pytest.raises(InvalidData, match=r"row 2: the recording begins 0\.5 s into its file \(offset\)"):
        read([row, {**row, "offset": 0.5}])


def test_a_cell_that_is_no_path_is_named_and_not_shown_whole() -> None:
    for cell in ("A" * 5000, "a\0b"):
        with pytest.raises(InvalidData, match="data:row 1: ") as caught:
            read([{"audio": cell, "text": "hello"}])
        assert len(str(caught.value)) < 400


def test_a_recording_that_broke_off_is_said() -> None:
    whole = wav(tone(0.5))
    streamed = whole[:4] + b"\xff" * 4 + whole[8:]
    cells = [whole, whole[:-1000], streamed, whole[:-1000]]
    notes = [read([{"audio": cell, "text": "hello"} for cell in some]).notes for some in (cells, cells[::2])]
    said = "2 recordings end before their files say, as where a copy broke off, the first data:row 2"
    assert [said in some for some in notes] == [True, False]
    assert not any("broke off" in note for note in notes[1])


def test_a_folder_without_its_table(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"has one of metadata.csv.*this one has none"):
        read(tmp_path)
    with pytest.raises(InvalidData, match=r"no audio column .*'sound', 'text'"):
        read([{"sound": "a", "text": "b"}])


def test_rows_are_decoded_when_they_are_asked_for(spoken: Path, speech_bases: dict[str, Path]) -> None:
    recipe, dataset = find_recipe("speech"), read(spoken / "train", language="es")
    processor = load_processor(recipe, load_base(str(speech_bases["whisper"]), device="cpu"))
    encoded = recipe.encode(processor, dataset, (), recipe.resolve(processor, dataset, max_length=0))
    loaded: list[int] = []
    for at, example in enumerate(dataset):
        load = example.fields["sound"].load

        def noted(at: int = at, load: Any = load) -> Any:
            loaded.append(at)
            return load()

        example.fields["sound"].load = noted
    row = encoded.select([3, 1]).rows[0]
    assert loaded == [3]
    assert row["samples"].dtype == np.float32
    assert len(row["samples"]) == int(1.2 * 16_000)
    batch = recipe.collator(processor)([encoded.rows[0], encoded.rows[2]])
    assert batch["input_features"].shape == (2, 80, 200)
    assert batch["labels"].shape == batch["decoder_input_ids"].shape
    assert int((batch["labels"][0] == -100).sum()) > int((batch["labels"][1] == -100).sum())


def test_what_the_base_cannot_take(speech_bases: dict[str, Path]) -> None:
    recipe = find_recipe("speech")
    whisper, ctc = (
        load_processor(recipe, load_base(str(speech_bases[kind]), device="cpu"))
        for kind in ("whisper", "wav2vec2")
    )
    long = read([{"audio": (tone(2.5), 16_000), "text": "a"}])
    with pytest.raises(InvalidData, match=r"data:row 1: .* has 2.5 s; this base reads 2"):
        recipe.encode(whisper, long, (), {"language": "es"})
    rows = [{"audio": (tone(each), 16_000), "text": "a"} for each in (1.0, 2.5)]
    some = read(rows, max_seconds=2)
    assert len(some) == 1
    assert "1 of 2 recordings have more than 2 s and are left out" in some.notes
    with pytest.raises(InvalidData, match="every recording has more than"):
        read(rows, max_seconds=0.5)
    with pytest.raises(InvalidSettings, match="max_seconds is a number above 0"):
        read(rows, max_seconds="long")
    quick = read([{"audio": (tone(0.1), 16_000), "text": "far too many words"}])
    with pytest.raises(InvalidData, match=r"data:row 1: .* has 0.10 s, too few for its transcript of 18"):
        recipe.encode(ctc, quick, (), {"language": None})
    # 49 positions, the last whole one ends before the second does
    for text, fits in (("ab" * 24 + "a", True), ("ab" * 25, False)):
        second = read([{"audio": (tone(1), 16_000), "text": text}])
        if fits:
            assert recipe.encode(ctc, second, (), {"language": None}).supervised == 49
        else:
            with pytest.raises(InvalidData, match=r"has 1.00 s, too few for its transcript of 50"):
                recipe.encode(ctc, second, (), {"language": None})
    with pytest.raises(InvalidSettings, match="Set language"):
        recipe.resolve(whisper, long, max_length=0)
    odd = read([{"audio": (tone(1), 16_000), "text": "ada 7!"}])
    encoded = recipe.encode(ctc, odd, (), {"language": None})
    assert (encoded.supervised, encoded.targets) == (3, 5)


def test_rates_are_jiwers() -> None:
    said = ["the cat sat", "on the mat today", "Yes."]
    wrote = ["the cat sad down", "on mat", "yes"]
    losses = [np.ones(3), np.ones(2), np.zeros(5)]
    statistics = speech_statistics(wrote, said, losses)
    values = statistics.values()
    assert values["wer"] == pytest.approx(jiwer.wer(said, wrote))
    assert values["cer"] == pytest.approx(jiwer.cer(said, wrote))
    assert values["wer/normalised"] == pytest.approx(jiwer.wer([*said[:2], "yes"], wrote))
    assert values["loss"] == pytest.approx(0.5)
    found = statistics.estimates()["wer"]
    assert found.low < found.value < found.high
    assert found.n == 3


def test_writing_nothing_and_too_much() -> None:
    values = speech_statistics(["", "a b c"], ["one two", "a"], [np.ones(1)] * 2).values()
    assert values["wer"] == pytest.approx(4 / 3)
    assert speech_statistics(["words"], ["..."], [np.ones(1)]).values()["wer/normalised"] == 1.0


def test_rates_are_of_the_texts_that_were_asked_for() -> None:
    said, wrote = ["the cat sat", "on the mat", "yes", "no"], ["", "on mat", "", "now"]
    losses = [np.ones(3)] * 4
    statistics = speech_statistics(wrote, said, losses, [1, 3])
    alone = speech_statistics([wrote[1], wrote[3]], [said[1], said[3]], losses[:2])
    assert statistics.values() == alone.values()
    found = statistics.estimates()
    assert {name: one.n for name, one in found.items() if name != "loss"} == dict.fromkeys(
        ("wer", "cer", "wer/normalised", "cer/normalised"), 2
    )
    assert found["loss"].n == 4
    drawn = statistics.under(np.array([[1.0, 0, 1, 0], [0, 1, 0, 0]]))
    assert np.isnan(drawn["wer"][0])
    assert drawn["wer"][1] == pytest.approx(1 / 3)
    assert set(speech_statistics(wrote, said, losses, []).values()) == {"loss"}


def run(base: Path, spoken: Any, output: Path, **options: Any) -> TrainingResult:
    settings: dict[str, Any] = {
        "max_steps": 3,
        "batch_size": 4,
        "eval_steps": 3,
        "precision": "fp32",
    } | options
    return train("speech", spoken, base=str(base), device="cpu", output=output, quiet=True, **settings)


@pytest.mark.parametrize(("kind", "language"), [("whisper", "es"), ("wav2vec2", None)])
def test_trained_published_pulled_and_served(
    speech_bases: dict[str, Path], spoken: Path, tmp_path: Path, kind: str, language: str | None
) -> None:
    """What comes out is plain PEFT's, equal to 1e-5; evaluation measures it anew; another process serves it by name."""
    hub = open_hub(tmp_path / "hub")
    result = run(
        speech_bases[kind], spoken, tmp_path / "run", language=language, name="acme/phone", push=True, hub=hub
    )
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.task, manifest.recipe) == ("automatic-speech-recognition", "speech")
    assert manifest.hyperparameters["language"] == language
    assert {"wer", "cer", "wer/normalised", "cer/normalised", "loss"} == set(result.metrics["test"])

    recipe, test = find_recipe("speech"), read(spoken / "test")
    base = load_base(str(speech_bases[kind]), device="cpu")
    processor = load_processor(recipe, base)
    encoded = recipe.encode(processor, test, (), manifest.hyperparameters)
    batch = recipe.collator(processor)([dict(row) for row in encoded.rows])
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    peft: Any = by_peft(speech_bases[kind], kind, result.artifact.path)
    with Runtime(base, hub=hub) as runtime, torch.inference_mode():
        digest = runtime.attach("acme/phone")
        with runtime._adapted.applying_to_all(((1.0, digest),)):
            ours = base.model(**inputs).logits
        theirs = peft(**inputs).logits
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
        files = [spoken / "test" / f"{at}.wav" for at in range(2)]
        texts = [found.text for found in runtime.transcribe(files, "acme/phone")]
    run_the_card(result.artifact.path, speech_bases[kind], spoken / "test" / "0.wav", texts[0])
    served = answers_of(recipe, result.artifact, base, test, encoded, batch_size=2)
    merged = merged_answers(
        recipe, result.artifact, load_base(str(speech_bases[kind]), device="cpu"), test, encoded, batch_size=2
    )
    assert merged.texts == served.texts == texts
    for ours, theirs in zip(served.outputs, merged.outputs, strict=True):
        assert np.allclose(ours, theirs, atol=1e-4 * float(np.abs(theirs).max()))
    again = evaluate(result.artifact, spoken / "test", base=base)
    assert again.metrics == result.metrics["test"]
    assert again.metrics["wer"].value == pytest.approx(jiwer.wer(SAID[2:4], texts))
    assert {"whisper": False, "wav2vec2": True}[kind] == (
        "lm_head" in (result.artifact.config["modules_to_save"] or [])
    )


def test_a_base_without_masks_learns_from_unequal_recordings(
    speech_bases: dict[str, Path], tmp_path: Path
) -> None:
    """wav2vec2-base and its kin hear what recordings are padded with: what is measured does not hang on neighbours."""
    seconds = (1.2, 3.0, 0.8, 2.0)
    rows = [
        {"audio": (tone(each, seed=at), 16_000), "text": text}
        for at, (each, text) in enumerate(zip(seconds, SAID, strict=False))
    ]
    base = speech_bases["wav2vec2-unmasked"]
    result = run(base, rows, tmp_path / "run", validation=rows)
    losses = [
        evaluate(result.artifact, rows, device="cpu", batch_size=size).metrics["loss"] for size in (1, 4)
    ]
    assert losses == [result.metrics["validation"]["loss"]] * 2


def run_the_card(folder: Path, base: Path, recording: Path, expected: str) -> None:
    """Its code for plain PEFT, run in the adapter's folder, on a recording at the base's rate."""
    code = (
        (folder / "README.md")
        .read_text()
        .partition("## With PEFT alone")[2]
        .split("```")[1]
        .removeprefix("python\n")
    )
    sound = read_sound(recording, 16_000, "sound").samples
    wide = folder.parent / "wide.wav"
    soundfile.write(wide, sound, 16_000, subtype="FLOAT")
    code = code.replace('"some.wav"', repr(str(wide))).replace('"."', repr(str(folder)))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    assert repr(expected)[1:-1][:20] in out.getvalue()


def test_as_many_are_written_as_is_asked_and_that_is_said(
    speech_bases: dict[str, Path], spoken: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = run(
        speech_bases["wav2vec2"], spoken, tmp_path / "run", answered=1, max_steps=1, report=notes.append
    )
    assert "test: texts of 1 of 2 rows are written and measured (answered), the loss of all" in notes
    assert {name: result.metrics["test"][name].n for name in ("wer", "cer", "loss")} == {
        "wer": 1,
        "cer": 1,
        "loss": 2,
    }
    assert result.artifact.manifest is not None
    assert result.artifact.manifest.hyperparameters["answered"] == 1
    again = evaluate(result.artifact, spoken / "test", device="cpu")
    assert again.metrics["wer"].n == 2
    assert again.notes[1:] == ()
    assert read(spoken / "test").settings["answered"] == 128
    with pytest.raises(
        InvalidSettings, match="answered='some' is no number of examples. Give a whole number from 0, or all"
    ):
        read(spoken / "test", answered="some")


def test_the_loss_selects_and_falls(speech_bases: dict[str, Path], spoken: Path, tmp_path: Path) -> None:
    result = run(
        speech_bases["whisper"],
        spoken / "train",
        tmp_path / "run",
        language="es",
        max_steps=24,
        eval_steps=6,
        learning_rate=1e-2,
        validation=spoken / "train",
    )
    losses = [entry["eval_loss"] for entry in result.run.history if "eval_loss" in entry]
    assert losses[-1] < losses[0] - 0.5
    assert result.metrics["validation"]["loss"].value == pytest.approx(min(losses), rel=0.05)


def test_a_plan_says_what_is_read(speech_bases: dict[str, Path], spoken: Path) -> None:
    planned = plan("speech", spoken, base=str(speech_bases["whisper"]), language="spanish")
    assert planned.settings["language"] == "es"
    assert (
        "train: 6 recordings, 0.1 minutes: 6 at 8000 Hz; each is resampled to the base's rate"
        in planned.notes
    )
    assert [row[1] for row in planned.samples[0].rows][:5] == ["", "", "", "", "learnt"]
    assert "0.wav (1.2 s): ada was born" in planned.samples[0].text
    planned = plan("speech", spoken, base=str(speech_bases["wav2vec2"]))
    assert {row[1] for row in planned.samples[0].rows} == {"learnt"}


def test_what_a_base_never_writes_is_said_before_training(
    speech_bases: dict[str, Path], spoken: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(speech_bases["whisper"], base)
    processor: Any = load_base(str(base)).processor
    tokenizer = processor.tokenizer
    texts = ["ada (born) here", "see: bob", *SAID]
    never = [tokenizer(mark, add_special_tokens=False)["input_ids"][-1] for mark in (" (", ")", ":")]
    told = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**told, "suppress_tokens": never}))
    data = write_folder(tmp_path / "data", texts)
    given: dict[str, Any] = {"validation": spoken / "validation", "language": "en"}
    notes = plan("speech", data, base=str(base), **given).notes
    (said,) = [note for note in notes if "suppress_tokens" in note]
    assert said.startswith(f"train: 2 of {len(texts)} transcripts have what {base}'s generation suppresses")
    assert set(said.rpartition(": ")[2].split()) == {"(", ")", ":"}
    plain = plan("speech", data, base=str(speech_bases["whisper"]), **given).notes
    assert not [note for note in plain if "suppress" in note]


def test_what_cannot_be_trained(
    speech_bases: dict[str, Path], spoken: Path, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSettings, match="prefix tuning is not run on speech models"):
        run(speech_bases["whisper"], spoken, tmp_path / "run", language="es", method="prefix")
    with pytest.raises(InvalidSettings, match="does not write down speech"):
        run(tiny_base, spoken, tmp_path / "run", language="es")
