"""Tokens as text and bytes, and chunks as they are sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from adapthub.adapters.errors import SamplingError
from adapthub.runtime.requests import Event, Usage
from adapthub.runtime.server.answering import Answer
from adapthub.runtime.server.openai_answers import stream_of, token_text
from tests.runtime.test_text_stream import tokenizer

TEXT = "the film 🚀 mañana"


@pytest.mark.parametrize(("kind", "before"), [("byte-level", ""), ("byte-fallback", " ")])
def test_the_bytes_of_all_tokens_are_the_text(kind: str, before: str) -> None:
    made = tokenizer(kind)
    ids = made.encode(TEXT, add_special_tokens=False)
    spelled = [token_text(made, id) for id in ids]
    assert b"".join(bytes(spelling) for _, spelling in spelled).decode() == before + TEXT
    assert any("\N{REPLACEMENT CHARACTER}" in text for text, _ in spelled), (
        "halves of characters are among them"
    )
    assert all(
        text.encode() == bytes(spelling)
        for text, spelling in spelled
        if "\N{REPLACEMENT CHARACTER}" not in text
    )


class Batches:
    """An answer that comes in these batches, the last of which may be an error."""

    usage = Usage(3, 2, 4)

    def __init__(self, *batches: list[Event] | SamplingError) -> None:
        self._batches = batches
        self.settled = 0

    async def batches(self) -> AsyncIterator[list[tuple[int, Event]]]:
        for batch in self._batches:
            if isinstance(batch, SamplingError):
                raise batch
            yield [(0, event) for event in batch]

    async def settle(self) -> None:
        self.settled += 1


def sent(answer: Batches, include_usage: bool = False) -> list[str]:
    """The bodies of the messages that a server is given."""

    async def send_all() -> list[str]:
        bodies: list[str] = []

        async def send(message: Any) -> None:
            bodies.append(message.get("body", b"").decode())

        async def receive() -> Any:
            await asyncio.Event().wait()

        response = await stream_of(
            cast(Answer, answer),
            {"id": "x"},
            [{"text": "opening"}],
            lambda choice, event: [{"index": choice, "text": event.text}] if event.text else [],
            include_usage,
        )
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await response(scope, receive, send)
        return [body for body in bodies if body]

    return asyncio.run(send_all())


def test_what_is_ready_together_is_sent_together() -> None:
    answer = Batches(
        [Event("a", ()), Event("b\n\n", ())], [Event("", ())], [Event("c", ()), Event("é", (), "stop")]
    )
    first, second, rest, done = sent(answer, include_usage=True)
    assert first.split("\n\n")[:-1] == [
        'data: {"id":"x","choices":[{"text":"opening"}],"usage":null}',
        'data: {"id":"x","choices":[{"index":0,"text":"a"}],"usage":null}',
        'data: {"id":"x","choices":[{"index":0,"text":"b\\n\\n"}],"usage":null}',
    ]
    assert second.count("data: ") == 2
    assert json.loads(rest.removeprefix("data: "))["usage"]["total_tokens"] == 7
    assert done == "data: [DONE]\n\n"
    assert answer.settled == 1


def test_an_error_ends_the_stream() -> None:
    answer = Batches([Event("a", ())], SamplingError("no token is left"))
    _, last = sent(answer)
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "no token is left"


def test_an_error_before_the_first_event_is_no_stream() -> None:
    answer = Batches(SamplingError("no token is left"))
    with pytest.raises(SamplingError):
        sent(answer)
    assert answer.settled == 1
