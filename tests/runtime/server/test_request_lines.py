"""A request's line in the log says what its answer came to, and nothing of its text."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from adapthub.hub.registry import Registry
from adapthub.web import logs
from tests import asking
from tests.runtime.server.live import live, settings_for


def test_every_request_has_a_line_without_its_text(
    served_base: Path, served_hub: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, logs.__name__),
        live(settings_for(served_base), served_hub) as running,
        asking.client(base_url=running.address) as http,
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
