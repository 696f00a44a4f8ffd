"""Whisper base on real recordings: trained on a few, measured, published, pulled, and served to both clients."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from huggingface_hub import InferenceClient

from adapthub.adapters.base import load_base
from adapthub.adapters.samples import fetch
from adapthub.hub import open_hub
from adapthub.recipes.evaluation import evaluate
from adapthub.recipes.training import train
from adapthub.runtime import Runtime
from tests.runtime.server.live import live, settings_for


@pytest.mark.slow
def test_whisper_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # its client then asks nobody
    folder = fetch("whisper-base")
    recordings = fetch("speech-es")
    rows = (recordings / "test" / "metadata.csv").read_text().splitlines()[1:7]
    pairs = [row.partition(",") for row in rows]
    data = [{"audio": str(recordings / "test" / file), "text": text.strip('"')} for file, _, text in pairs]
    hub = open_hub(tmp_path / "hub")
    base = load_base(str(folder), device="cpu")
    result = train(
        "speech",
        data[:4],
        base=base,
        validation=data[4:],
        output=tmp_path / "run",
        language="es",
        max_steps=2,
        batch_size=2,
        learning_rate=1e-4,
        name="acme/es",
        push=True,
        hub=hub,
        quiet=True,
    )
    measured = result.metrics["validation"]
    assert measured["wer"].value < 0.6, "zero-shot is near 0.35 over the whole split"
    assert evaluate(result.artifact, data[4:], base=base).metrics == measured
    clip = Path(str(data[4]["audio"]))
    with Runtime(base, hub=hub) as runtime:
        text = runtime.transcribe([clip], "acme/es")[0].text
    with live(settings_for(folder), hub) as running:
        hugging = InferenceClient(model=f"{running.address}/models/acme/es")
        assert hugging.automatic_speech_recognition(clip).text == text
        with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as client:
            found = client.audio.transcriptions.create(model="acme/es", file=clip)
            assert found.text == text
