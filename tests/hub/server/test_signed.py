"""What is signed is good for what it was signed for, for as long, and for nothing else."""

from __future__ import annotations

import time

import pytest
from itsdangerous import BadSignature, SignatureExpired

from adapthub.hub.server.signed import Signer

SIGNER = Signer(b"secret", 60)


@pytest.mark.parametrize("value", [5, ["a", 2**40], {"repo": "acme/ner"}, ""])
def test_it_comes_back_whole(value: object) -> None:
    assert SIGNER.read(SIGNER.sign(value, "upload", "acme/ner", "a"), "upload", "acme/ner", "a") == value


@pytest.mark.parametrize(
    ("other", "context"),
    [
        (SIGNER, ("download", "acme/ner", "a")),
        (SIGNER, ("upload", "acme/other", "a")),
        (SIGNER, ("upload", "acme/ner", "b")),
        (SIGNER, ("upload", "acme/ner")),
        (SIGNER, ("upload", "acme/nera", "")),
        (SIGNER, ("upload", 'acme/ner", "a')),
        (Signer(b"another", 60), ("upload", "acme/ner", "a")),
    ],
)
def test_for_anything_else_it_is_none(other: Signer, context: tuple[str, ...]) -> None:
    text = SIGNER.sign(5, "upload", "acme/ner", "a")
    with pytest.raises(BadSignature):
        other.read(text, *context)


def test_no_letter_of_it_can_be_changed() -> None:
    text = SIGNER.sign([5], "upload")
    for place, letter in enumerate(text[:-1]):  # the last letter has bits that say nothing
        with pytest.raises(BadSignature):
            SIGNER.read(text[:place] + ("A" if letter != "A" else "B") + text[place + 1 :], "upload")


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "\N{SNOWMAN}", "x" * 10_000])
def test_what_was_never_signed(text: str) -> None:
    with pytest.raises(BadSignature):
        SIGNER.read(text, "upload")


def test_it_is_good_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at once for a server whose clock is behind."""
    now = int(time.time())
    text = SIGNER.sign(5, "upload")
    for later in (-30, 0, 50):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert SIGNER.read(text, "upload") == 5
    monkeypatch.setattr(time, "time", lambda: now + 62)
    with pytest.raises(SignatureExpired):
        SIGNER.read(text, "upload")


def test_it_is_short() -> None:
    assert len(SIGNER.sign(2**40, "upload", "acme/" + "n" * 90, "0" * 64)) < 80
