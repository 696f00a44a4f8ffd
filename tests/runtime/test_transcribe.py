"""Recordings under many adapters at once: each is what PEFT's own generation writes, whatever runs beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidInput, InvalidSettings, Overloaded
from adapthub.adapters.speech import speech_of
from adapthub.runtime import Runtime
from adapthub.runtime.batcher import Batcher
from adapthub.runtime.transcriber import Heard, Spoken, Transcription
from tests.adapters.speech_bases import tone, wav
from tests.adapters.speech_oracle import by_peft, save_speech_adapter

SECONDS = (1.0, 0.5, 1.5, 0.8)


@pytest.fixture(scope="module")
def adapters(
    speech_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("speech-adapters")
    return {
        kind: [
            save_speech_adapter(speech_bases[kind], root / f"{kind}-{seed}", kind, seed=seed)
            for seed in (1, 2)
        ]
        for kind in ("whisper", "wav2vec2")
    }


@pytest.mark.parametrize(("kind", "language"), [("whisper", "es"), ("wav2vec2", None)])
def test_rows_of_unlike_adapters_are_pefts(
    speech_bases: dict[str, Path], adapters: dict[str, list[Path]], kind: str, language: str | None
) -> None:
    base = load_base(str(speech_bases[kind]), device="cpu")
    recordings = [(tone(each, seed=at), 16_000) for at, each in enumerate(SECONDS)]
    first, second = adapters[kind]
    mixed = [first, None, second, first]
    with Runtime(base) as runtime:
        found = runtime.transcribe(recordings, mixed, language=language)
    speech = speech_of(base)
    for (samples, _), adapter, one in zip(recordings, mixed, found, strict=True):
        model: Any = base.model if adapter is None else by_peft(speech_bases[kind], kind, adapter)
        with torch.inference_mode():
            assert one.text == speech.transcribe(model, [samples], language)[0]
        assert one.adapter == (None if adapter is None else str(adapter))
    assert len({one.text for one in found}) == len(found), "they write unlike things"
    assert [one.seconds for one in found] == [pytest.approx(each) for each in SECONDS]


def test_whisper_is_asked_as_transformers_does(speech_bases: dict[str, Path]) -> None:
    """Its own generate, with the tokens that a recording of this length may have."""
    base = load_base(str(speech_bases["whisper"]), device="cpu")
    model: Any = base.model
    processor: Any = base.processor
    features = processor.feature_extractor([tone(1.0)], sampling_rate=16_000, return_tensors="pt")
    ids = model.generate(features["input_features"], language="es", task="transcribe", max_new_tokens=76)
    theirs = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()
    with Runtime(base) as runtime:
        assert runtime.transcribe([(tone(1.0), 16_000)], language="spanish")[0].text == theirs
        assert runtime.transcribe([(tone(1.0), 16_000)], language="ru")[0].text != theirs


def test_files_bytes_and_other_rates(speech_bases: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(tone(1.0)))
    with Runtime(load_base(str(speech_bases["wav2vec2"]), device="cpu")) as runtime:
        assert runtime.transcribes
        assert not runtime.generates
        file, path, data = runtime.transcribe(
            [str(tmp_path / "a.wav"), tmp_path / "a.wav", (tmp_path / "a.wav").read_bytes()]
        )
        assert file.text == path.text == data.text != ""
        (slow,) = runtime.transcribe([(tone(1.0, rate=8_000), 8_000)])
        assert slow.seconds == pytest.approx(1.0)


def test_what_cannot_be_written_down(speech_bases: dict[str, Path], tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "page.wav").write_text("<html>")
    with Runtime(load_base(str(speech_bases["whisper"]), device="cpu")) as runtime:
        with pytest.raises(InvalidInput, match=r"recording 1 has more than 2 s"):
            runtime.transcribe([(tone(2.0), 16_000), (tone(2.1), 16_000)])
        with pytest.raises(InvalidInput, match=r"page.wav: not a recording that can be decoded"):
            runtime.transcribe([tmp_path / "page.wav"])
        with pytest.raises(InvalidInput, match=r"Write \[recording\]"):
            runtime.transcribe((tone(1), 16_000))  # type: ignore[arg-type]
        with pytest.raises(InvalidSettings, match="no language that Whisper knows"):
            runtime.transcribe([(tone(1), 16_000)], language="klingon")
        assert runtime.transcribe([]) == []
    with Runtime(load_base(str(tiny_base), device="cpu")) as runtime:
        assert not runtime.transcribes
        with pytest.raises(InvalidSettings, match="does not write down speech"):
            runtime.transcribe([(tone(1), 16_000)])


def test_recordings_that_wait_are_few(speech_bases: dict[str, Path]) -> None:
    """Each is megabytes; of one tenant's no more than half of them wait."""

    async def refused(batcher: Batcher[Spoken, Heard, Transcription]) -> None:
        with pytest.raises(Overloaded, match="of this caller wait already"):
            async with batcher.reading([Spoken(wav(tone(0.1)))], None, "acme"):
                pass

    with Runtime(load_base(str(speech_bases["wav2vec2"]), device="cpu")) as runtime:
        batcher = runtime.speech_batcher
        with batcher._counted("acme", 128):  # that are being read
            asyncio.run(refused(batcher))
