"""Lines that programs parse, and lines that no stranger's text can break."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import httpx2
import pytest

from adapthub.hub.registry import Registry
from adapthub.runtime.server import logs
from tests.runtime.server.live import live, settings_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def say(stream: io.StringIO) -> str:
    with logs.shown(stream):
        try:
            raise ValueError("in\x1b[2Jner\nbelow")
        except ValueError:
            logging.getLogger("a").exception(
                "it\nfailed", extra={"fields": {"model": "\x1b[2J\n", "ttft": 0.25}}
            )
    return stream.getvalue()


def test_programs_get_one_object_a_line() -> None:
    (line,) = say(io.StringIO()).splitlines()
    read = json.loads(line)
    assert (read["level"], read["message"], read["model"]) == ("error", "it\nfailed", "\x1b[2J\n")
    assert "ValueError: in\x1b[2Jner\nbelow" in read["traceback"]


def test_people_get_lines_that_cannot_drive_their_terminal() -> None:
    first, *_ = said = say(Terminal()).splitlines()
    assert first.endswith("error   it\\nfailed  model=\\x1b[2J\\n  ttft=0.250")
    assert said[-2:] == ["ValueError: in\\x1b[2Jner", "below"]


def test_logging_is_as_before_afterwards() -> None:
    before = logging.getLogger().handlers[:]
    say(io.StringIO())
    assert logging.getLogger().handlers == before


def test_every_request_has_a_line_without_its_text(
    served_base: Path, served_hub: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, logs.__name__),
        live(settings_for(served_base), served_hub) as running,
        httpx2.Client(base_url=running.address) as http,
    ):
        for model, status in (("acme/sql@prod", 200), ("acme/none", 404)):
            body = {"model": model, "prompt": "bob met alice", "max_tokens": 3, "ignore_eos": True}
            answer = http.post("/v1/completions?bob", json=body)
            assert answer.status_code == status
        http.get("/health")
    lines = [record for record in caplog.records if record.name == logs.__name__]
    assert [line.getMessage() for line in lines] == ["POST /v1/completions"] * 2
    answered, absent = (vars(line)["fields"] for line in lines)
    assert (answered["status"], answered["version"], answered["completion_tokens"]) == (200, "acme/sql@v1", 3)
    assert absent["status"] == 404
    assert absent["id"] == answer.headers["x-request-id"]
    assert "bob" not in str([vars(line) for line in lines])
