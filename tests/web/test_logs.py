"""Lines that programs parse, and lines that no stranger's text can break."""

from __future__ import annotations

import io
import json
import logging

from adapthub.web import logs


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
