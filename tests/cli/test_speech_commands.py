"""`adapt train`, `eval` and `run` on recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.adapters.speech_bases import tone, wav
from tests.cli.conftest import Command
from tests.recipes.test_speech import SAID, write_folder


def test_a_folder_of_recordings_becomes_an_adapter(
    cli: Command, speech_bases: dict[str, Path], tmp_path: Path
) -> None:
    base = speech_bases["wav2vec2"]
    for split, texts in {"train": SAID, "test": SAID[:2]}.items():
        write_folder(tmp_path / "calls" / split, texts)
    trained = cli(
        *(
            "train",
            "--task",
            "speech",
            "--data",
            "calls",
            "--base",
            base,
            "--output",
            "run",
            "--no-validation",
        ),
        *("--max-steps", 1, "--batch-size", 2, "--set", "precision=fp32"),
    )
    trained.fine()
    assert "6 at 8000 Hz; each is resampled" in trained.out + trained.err
    measured = json.loads(cli("eval", "run/adapter", "--data", "calls", "--base", base, "--json").fine())
    assert measured["rows"] == 2
    assert {"wer", "cer", "loss"} <= set(measured["metrics"])
    again = json.loads(cli("eval", "run/adapter", "--data", "calls/test", "--base", base, "--json").fine())
    assert again == measured

    (tmp_path / "a.wav").write_bytes(wav(tone(1.0)))
    (found,) = json.loads(cli("run", "run/adapter", "a.wav", "--base", base, "--json").fine())
    assert (found["file"], found["seconds"]) == ("a.wav", 1.0)
    assert cli("run", "run/adapter", "a.wav", "--base", base).fine() == f"{found['text']}\n"
    two = cli("run", "run/adapter", "a.wav", "a.wav", "--base", base).fine()
    assert two == 2 * f"a.wav: {found['text']}\n"


@pytest.mark.slow
def test_what_cannot_be_heard(cli: Command, speech_bases: dict[str, Path], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "calls", SAID)
    (folder / "3.wav").write_text("<html>")
    given = ("train", "--task", "speech", "--data", "calls", "--base", speech_bases["whisper"])
    assert "metadata.csv:5: 3.wav: not a recording that can be decoded" in cli(*given).refused()
    (folder / "3.wav").write_bytes(wav(tone(1.0)))
    assert "Give --set language, such as en" in cli(*given).refused()
