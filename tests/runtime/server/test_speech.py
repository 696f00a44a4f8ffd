"""Recordings sent by Hugging Face's and OpenAI's own clients, against what Runtime.transcribe writes."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from adapthub.adapters.artifact import Artifact
from adapthub.hub import open_hub
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.serving import ServerLimits
from tests.adapters.speech_bases import tone, wav
from tests.adapters.speech_oracle import save_speech_adapter
from tests.runtime.server.live import live, settings_for

CLIP = wav(tone(1.2, seed=3, rate=8_000), 8_000)
LIMITS = ServerLimits(audio_bytes=200_000, audio_seconds=1.5)


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def hearing(speech_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server over the small Whisper with two adapters."""
    root = tmp_path_factory.mktemp("hearing")
    hub = open_hub(root / "hub")
    for seed, name in enumerate(("acme/phone", "acme/radio"), start=1):
        folder = save_speech_adapter(speech_bases["whisper"], root / str(seed), "whisper", seed=seed)
        hub.push(Artifact.read(folder), name, alias="prod")
    with live(settings_for(speech_bases["whisper"], server=LIMITS), hub) as running:
        yield running


@pytest.fixture
def client(hearing: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hearing.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def inference(running: Running, name: str) -> InferenceClient:
    return InferenceClient(model=f"{running.address}/models/{quote(name)}")


def written(running: Running, adapter: str | None, language: str | None = None) -> str:
    return running.serving.runtime.transcribe([CLIP], adapter, language=language)[0].text


def test_hugging_faces_client(hearing: Running, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(CLIP)
    phone = inference(hearing, "acme/phone@prod")
    for audio in (CLIP, tmp_path / "clip.wav", str(tmp_path / "clip.wav")):
        assert phone.automatic_speech_recognition(audio).text == written(hearing, "acme/phone")
    spanish = phone.automatic_speech_recognition(CLIP, extra_body={"language": "es"})
    assert spanish.text == written(hearing, "acme/phone", "es")
    base = inference(hearing, hearing.serving.catalog.base_name)
    assert base.automatic_speech_recognition(CLIP).text == written(hearing, None) != spanish.text


def test_openais_client(hearing: Running, client: openai.OpenAI) -> None:
    found = client.audio.transcriptions.create(
        model="acme/radio", file=("clip.wav", CLIP), language="es", temperature=0
    )
    assert found.text == written(hearing, "acme/radio", "es")
    assert found.usage is not None
    assert found.usage.type == "duration"
    assert found.usage.seconds == 2
    text = client.audio.transcriptions.create(
        model="acme/radio", file=("clip.wav", CLIP), language="es", response_format="text"
    )
    assert text == f"{found.text}\n"


def test_many_callers_under_unlike_adapters(hearing: Running) -> None:
    names = ["acme/phone", "acme/radio", hearing.serving.catalog.base_name] * 4
    with ThreadPoolExecutor(12) as pool:
        texts = [
            one.text
            for one in pool.map(
                lambda name: inference(hearing, name).automatic_speech_recognition(CLIP), names
            )
        ]
    expected = [written(hearing, None if "/" not in name else name) for name in names]
    assert texts == expected
    assert len(set(texts)) == 3


def test_what_it_used_is_written_down(hearing: Running) -> None:
    seen: list[Any] = []
    hearing.serving.observers.append(seen.append)
    try:
        inference(hearing, "acme/phone").automatic_speech_recognition(CLIP)
    finally:
        hearing.serving.observers.remove(seen.append)
    assert (seen[0].kind, seen[0].outcome) == ("automatic-speech-recognition", "stop")
    assert seen[0].usage.prompt_tokens == 60  # 1.2 s of 20 ms
    assert seen[0].target.label == "acme/phone@v1"


@pytest.mark.parametrize(
    ("audio", "status", "said"),
    [
        (b"<html>no sound</html>", 400, "not a recording that can be decoded"),
        (b"\x00" * 999, 400, "not a recording that can be decoded"),
        (wav(tone(1.7)), 400, "more than 1.5 s"),
        (wav(tone(60, rate=1000), 1000, "FLAC"), 400, "more than 1.5 s"),
        (b"\x00" * 200_001, 413, "larger than"),
    ],
)
def test_what_is_refused(hearing: Running, audio: bytes, status: int, said: str) -> None:
    with pytest.raises(HfHubHTTPError, match=said) as refused:
        inference(hearing, "acme/phone").automatic_speech_recognition(audio)
    assert refused.value.response.status_code == status
    # The form around it may be larger.
    sent = audio if status == 400 else audio + b"\x00" * (64 << 10)
    with (
        openai.OpenAI(base_url=f"{hearing.address}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIStatusError, match=said) as theirs,
    ):
        client.audio.transcriptions.create(model="acme/phone", file=("clip.wav", sent))
    assert theirs.value.status_code == status


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"response_format": "srt"}, "answers json or text"),
        ({"temperature": 0.7}, "temperature = '0.7' is not done here"),
        ({"prompt": "as before"}, "prompt = 'as before' is not done here"),
        ({"language": "klingon"}, "no language that Whisper knows"),
        ({"timestamp_granularities": ["word"]}, "Unrecognized request argument"),
        ({"model": "acme/none"}, "acme/none"),
    ],
)
def test_what_it_does_not_do(client: openai.OpenAI, options: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"model": "acme/phone", "file": ("clip.wav", CLIP)}
    with pytest.raises(openai.APIStatusError, match=said) as refused:
        client.audio.transcriptions.create(**(given | options))  # type: ignore[call-overload]
    assert refused.value.status_code in (400, 404)


def test_a_form_that_lacks_something(hearing: Running) -> None:
    for body, said in (
        (
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nacme/phone\r\n--x--\r\n',
            "file is missing",
        ),
        (b"--x--\r\n", "model is missing"),
        (b"", "Missing boundary|model is missing|no form"),
    ):
        request = urllib.request.Request(
            f"{hearing.address}/v1/audio/transcriptions",
            body,
            {"Content-Type": "multipart/form-data; boundary=x"},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 400

        assert re.search(said, refused.value.read().decode())


def test_a_base_that_hears_nothing(server: Running) -> None:
    with (
        openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="does not write down speech"),
    ):
        client.audio.transcriptions.create(model=server.serving.catalog.base_name, file=("clip.wav", CLIP))
    with pytest.raises(HfHubHTTPError, match="takes no"):
        inference(server, server.serving.catalog.base_name).automatic_speech_recognition(CLIP)
