"""SpamAssassin's public e-mails as train/validation/test.csv: subject and readable body, spam or ham.

Headers other than the subject are left out: they tell which mailbox a message was collected from, and so the
label. Attachments are not
read, and a message ends after MAX_CHARACTERS: a few hold whole mailing lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from email import message_from_string
from email.header import decode_header
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from adapthub.adapters.samples.members import keep_licences, write_classes

MAX_CHARACTERS = 20_000


def spam_assassin(unpacked: Path, target: Path) -> None:
    """One JSON file a message, with its source and group; the groups of ham and spam are folders."""
    package = unpacked / "@stdlib" / "datasets-spam-assassin"
    write_classes(target, _messages(package / "package" / "data"))
    keep_licences(package, target)


def _messages(data: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(data.glob("*/*.json")):
        source = json.loads(path.read_text(encoding="utf-8"))["text"]
        yield readable(source), "spam" if path.parent.name.startswith("spam") else "ham"


def readable(source: str) -> str:
    """The subject on one line, then the body as plain text, at most MAX_CHARACTERS."""
    message = message_from_string(source)
    return f"{_subject(message)}\n{_body(message)}".strip()[:MAX_CHARACTERS]


def _subject(message: Message) -> str:
    parts = decode_header(str(message.get("Subject", "")))
    return " ".join(
        part if isinstance(part, str) else _decoded(part, charset) for part, charset in parts
    ).strip()


def _body(message: Message) -> str:
    leaves = [part for part in message.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in leaves if part.get_content_subtype() == "plain"]
    texts = []
    for part in plain or leaves:
        payload = part.get_payload(decode=True)
        text = _decoded(payload, part.get_content_charset()) if isinstance(payload, bytes) else ""
        texts.append(_without_markup(text) if part.get_content_subtype() == "html" else text)
    lines = (" ".join(line.split()) for text in texts for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _decoded(data: bytes, charset: str | None) -> str:
    """Spam lies about its charset: what does not decode is read as latin-1, which takes any byte."""
    try:
        return data.decode(charset or "utf-8").replace("\0", "")
    except (UnicodeDecodeError, LookupError):
        return data.decode("latin-1").replace("\0", "")


class _Text(HTMLParser):
    """Collects what a reader would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in {"script", "style", "title"}
        if tag in {"br", "p", "div", "tr", "li", "td", "h1", "h2", "h3"}:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in {"script", "style", "title"} and self.hidden > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)


def _without_markup(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.pieces)
