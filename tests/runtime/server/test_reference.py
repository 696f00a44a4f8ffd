"""docs/http.md is what the routes say."""

from __future__ import annotations

from pathlib import Path

from adapthub.runtime.server.reference import reference

DOCUMENT = Path(__file__).parents[3] / "docs" / "http.md"


def test_the_document_is_that_of_the_routes() -> None:
    text = reference()
    assert DOCUMENT.read_text() == text, "run make docs"
    assert "## POST /v1/chat/completions" in text
