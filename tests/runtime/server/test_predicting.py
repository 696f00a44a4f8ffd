"""What a single-pass request costs is on disk before its answer is out, whoever asks and however it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import openai
import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from adapthub.adapters.errors import (
    AdaptHubError,
    Overloaded,
    RateLimited,
    StorageError,
    Unauthorized,
)
from adapthub.runtime.predictor import Question
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.tenants.caller import LOCAL, Caller
from adapthub.runtime.tenants.gate import OpenGate, UsageRecord
from tests.runtime.server.encoders import write_encoder_hub
from tests.runtime.server.live import live, settings_for


class Ledger(OpenGate):
    """Keeps what it is told; raises what it is told to."""

    def __init__(self) -> None:
        self.records: list[tuple[UsageRecord, int]] = []
        self.refuses: AdaptHubError | None = None
        self.fails: AdaptHubError | None = None
        self.key: str | None = None

    def authenticate(self, key: str | None) -> Caller:
        if self.key is not None and key != self.key:
            raise Unauthorized("this key is not known")
        return LOCAL

    def admit(self, caller: Caller, tokens: int) -> None:
        if self.refuses is not None:
            raise self.refuses

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        await asyncio.sleep(0.02)  # an answer that does not wait is out by now
        if self.fails is not None:
            raise self.fails
        self.records.append((usage, admitted))


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module")
def counted(tiny_base: Path, ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    hub = write_encoder_hub(tiny_base, tmp_path_factory.mktemp("counted"))
    with live(settings_for(tiny_base), hub, ledger) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(ledger: Ledger, counted: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins with an empty ledger and ends with nothing in flight."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    ledger.records.clear()
    ledger.refuses = ledger.fails = ledger.key = None
    yield
    until(lambda: not counted.serving.in_flight)
    assert all(resident.holders == 0 for resident in counted.serving.runtime.resident)


def until(what: Callable[[], bool]) -> None:
    last = time.monotonic() + 60
    while not what():
        assert time.monotonic() < last
        time.sleep(0.001)


def ask(running: Running, name: str, token: str | None = None) -> InferenceClient:
    return InferenceClient(model=f"{running.address}/models/{name}", token=token)


def tokens(running: Running, *texts: str) -> int:
    tokenizer = running.serving.runtime.base.tokenizer
    assert tokenizer is not None
    return sum(len(tokenizer(text)["input_ids"]) for text in texts)


def test_every_task_is_written_down(counted: Running, ledger: Ledger) -> None:
    text = "ada was born in london"
    ask(counted, "acme/ner@prod").token_classification(text)
    ask(counted, "acme/mood").text_classification(text)
    ask(counted, "acme/vectors").feature_extraction([text, text])
    with openai.OpenAI(base_url=f"{counted.address}/v1", api_key="none") as client:
        found = client.embeddings.with_raw_response.create(
            model=counted.serving.catalog.base_name, input=text
        )
    one = tokens(counted, text)
    assert [
        (usage.kind, usage.adapter, usage.prompt_tokens, usage.completion_tokens, usage.outcome, admitted)
        for usage, admitted in ledger.records
    ] == [
        ("token-classification", "acme/ner@v1", one, 0, "stop", one),
        ("text-classification", "acme/mood@v1", one, 0, "stop", one),
        ("feature-extraction", "acme/vectors@v1", 2 * one, 0, "stop", 2 * one),
        ("embedding", "", one, 0, "stop", one),
    ]
    assert found.headers["x-request-id"] == ledger.records[-1][0].id
    assert len({usage.id for usage, _ in ledger.records}) == 4


def test_what_is_refused_costs_nothing(counted: Running, ledger: Ledger) -> None:
    with pytest.raises(HfHubHTTPError, match="empty"):
        ask(counted, "acme/mood").text_classification(" ")
    ledger.refuses = RateLimited("no tokens are left", retry_after=6.5)
    with pytest.raises(HfHubHTTPError, match="no tokens are left") as caught:
        ask(counted, "acme/mood").text_classification("ada")
    assert caught.value.response.status_code == 429
    assert caught.value.response.headers["Retry-After"] == "7"
    assert ledger.records == []


def test_a_full_queue_is_503(counted: Running, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Overloaded("9 texts wait already")

    monkeypatch.setattr(counted.serving.runtime.batcher, "submit", full)
    with pytest.raises(HfHubHTTPError, match="9 texts wait") as caught:
        ask(counted, "acme/mood").text_classification("ada")
    assert caught.value.response.status_code == 503
    ((usage, admitted),) = ledger.records
    assert (usage.prompt_tokens, usage.outcome, admitted) == (0, "error", tokens(counted, "ada"))


def test_a_text_that_fails_is_written_down(
    counted: Running, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> list[torch.Tensor]:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(counted.serving.runtime._adapted, "logits", fails)
    with pytest.raises(HfHubHTTPError, match="no kernel image") as caught:
        ask(counted, "acme/mood").text_classification("ada")
    assert caught.value.response.status_code == 500
    ((usage, _),) = ledger.records
    assert (usage.prompt_tokens, usage.outcome) == (tokens(counted, "ada"), "error")


def test_what_cannot_be_written_down_is_not_answered(counted: Running, ledger: Ledger) -> None:
    ledger.fails = StorageError("the disk is full")
    with pytest.raises(HfHubHTTPError, match="the disk is full") as caught:
        ask(counted, "acme/mood").text_classification("ada")
    assert caught.value.response.status_code == 500


def test_whoever_leaves_is_written_down(
    counted: Running, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One leaves while its pass runs, which it pays; another before its pass, which never runs."""
    predictor, go, passes = counted.serving.runtime._predictor, threading.Event(), []
    compute = predictor.compute

    def waits(questions: Sequence[Question]) -> list[torch.Tensor]:
        passes.append([question.row.text for question in questions])
        assert go.wait(60)
        return compute(questions)

    monkeypatch.setattr(predictor, "compute", waits)
    running = post_and_hold(counted, "ada met bob")
    until(lambda: len(passes) == 1)
    waiting = post_and_hold(counted, "a fine film")
    until(lambda: counted.serving.runtime.batcher._rows.total() == 1)
    waiting.close()
    running.close()
    until(lambda: len(ledger.records) == 2)
    go.set()
    assert sorted((usage.outcome, usage.prompt_tokens) for usage, _ in ledger.records) == [
        ("cancelled", 0),
        ("cancelled", tokens(counted, "ada met bob")),
    ]
    ask(counted, "acme/mood").text_classification("ada")
    assert passes == [["ada met bob"], ["ada"]]


def post_and_hold(running: Running, text: str) -> socket.socket:
    """A connection with a request on it whose answer nobody has read."""
    body, address = json.dumps({"inputs": text}).encode(), urlparse(running.address)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.sendall(
        b"POST /models/acme/mood HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return connection


def test_a_server_that_drains_takes_none(
    counted: Running, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted.serving, "draining", True)
    with pytest.raises(HfHubHTTPError, match="shutting down") as caught:
        ask(counted, "acme/mood").text_classification("ada")
    assert caught.value.response.status_code == 503
    assert ledger.records == []


@pytest.mark.parametrize("path", ["/models/acme/mood", "/pipeline/ner/acme/ner", "/", "/v1/embeddings"])
def test_a_wrong_key_is_401(counted: Running, ledger: Ledger, path: str) -> None:
    ledger.key = "right"
    with pytest.raises(HfHubHTTPError, match="this key is not known") as caught:
        InferenceClient(model=counted.address + path, token="wrong").text_classification("ada")
    assert caught.value.response.status_code == 401
    assert type(caught.value) is HfHubHTTPError, "and not RepositoryNotFoundError"
    assert ask(counted, "acme/mood", "right").text_classification("ada")


def test_many_callers_share_passes(counted: Running, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP too: what comes while a pass runs goes together, under unlike adapters."""
    predictor, go, sizes = counted.serving.runtime._predictor, threading.Event(), []
    compute = predictor.compute

    def waits(questions: Sequence[Question]) -> list[torch.Tensor]:
        sizes.append(len(questions))
        assert go.wait(60)
        return compute(questions)

    monkeypatch.setattr(predictor, "compute", waits)
    found: dict[int, Any] = {}

    def call(index: int) -> None:
        name = ("acme/mood", "acme/nli", "acme/ner")[index % 3]
        client = ask(counted, name)
        if name == "acme/ner":
            found[index] = client.token_classification("ada was born")
        else:
            found[index] = client.text_classification("ada was born")

    threads = [threading.Thread(target=call, args=(index,)) for index in range(12)]
    threads[0].start()
    until(lambda: sizes == [1])
    for thread in threads[1:]:
        thread.start()
    until(lambda: counted.serving.runtime.batcher._rows.total() == 11)
    go.set()
    for thread in threads:
        thread.join(60)
    assert sizes == [1, 11]
    assert len(ledger.records) == 12
    for index in range(3, 12):
        assert [one.keys() for one in found[index]] == [one.keys() for one in found[index % 3]]
        for ours, theirs in zip(found[index], found[index % 3], strict=True):
            assert ours.score == pytest.approx(theirs.score, rel=1e-4)
