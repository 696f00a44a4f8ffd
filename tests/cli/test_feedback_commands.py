"""`adapt feedback`: what it refuses, and how; what it exports is tested with the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapthub.recipes.prefer import Prefer
from adapthub.runtime.feedback import FeedbackStore, Logged, Rating
from tests.cli.conftest import Command

SPAN = {"start": 0, "end": 3, "label": "PER"}


@pytest.fixture
def rated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "home"))
    store = FeedbackStore()
    store.log(Logged("1", "acme", "token-classification", "acme/ner@v1", "Ada slept", []))
    store.rate(Rating("1", "acme", -1.0, [SPAN]))
    store.rate(Rating("2", "acme", 1.0))


def test_nothing_is_no_error_to_list_and_one_to_export(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "none"))
    assert cli("feedback", "list").fine() == "no feedback\n"
    assert "--log-requests" in cli("feedback", "export", "--task", "ner", "--out", "a.jsonl").refused()
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.usefixtures("rated")
def test_a_rating_without_its_request_is_listed(cli: Command) -> None:
    lines = cli("feedback", "list").fine().splitlines()
    assert len(lines) == 3
    assert "Ada slept" in lines[1]
    assert len(cli("feedback", "list", "--adapter", "acme/ner").fine().splitlines()) == 2


@pytest.mark.usefixtures("rated")
def test_files_are_not_written_over_and_fit_the_task(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("mine")
    assert "there.jsonl is there already" in _refused(cli, "ner", "there.jsonl")
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    assert "Use .jsonl" in _refused(cli, "ner", "out.csv")
    assert "a file without suffix" in _refused(cli, "ner", "out")
    assert "cannot be written" in _refused(cli, "ner", "none/out.jsonl")
    assert "unknown task 'nerd'" in _refused(cli, "nerd", "out.jsonl")
    assert "no feedback to train sentiment on" in _refused(cli, "sentiment", "out.jsonl")


def _refused(cli: Command, task: str, out: str) -> str:
    return cli("feedback", "export", "--task", task, "--out", out).refused()


def test_what_was_said_of_answers_in_text_is_read_by_prefer(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "home"))
    store = FeedbackStore()
    said: list[tuple[float, str | None]] = [(1.0, None), (-1.0, None), (-1.0, "It is 4."), (0.0, None)]
    for at, (rating, correction) in enumerate(said):
        store.log(Logged(str(at), "acme", "chat", "acme/tone@v1", f"<user> 2 + {at}?", ["It is 5."]))
        store.rate(Rating(str(at), "acme", rating, correction))
    store.log(Logged("several", "acme", "chat", "acme/tone@v1", "Hi", ["a", "b"]))
    store.rate(Rating("several", "acme", 1.0))
    store.log(Logged("ner", "acme", "token-classification", "acme/ner@v1", "Ada slept", []))
    store.rate(Rating("ner", "acme", 1.0))

    exported = cli("feedback", "export", "--task", "prefer", "--out", "said.jsonl", "--json").fine()
    assert json.loads(exported)["examples"] == 3
    data = Prefer().read(tmp_path / "said.jsonl")
    assert data.settings["objective"] == "kto"
    asked = [{"role": "user", "content": f"<user> 2 + {at}?"} for at in range(3)]
    assert [example.fields for example in data] == [
        {"prompt": asked[:1], "answer": "It is 5.", "good": True, "rendered": True},
        {"prompt": asked[1:2], "answer": "It is 5.", "good": False, "rendered": True},
        {"prompt": asked[2:], "answer": "It is 4.", "good": True, "rendered": True},
        {"prompt": asked[2:], "answer": "It is 5.", "good": False, "rendered": True},
    ]
