"""References: what parses, what is refused and how it says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidReference
from adapthub.hub.reference import Reference, check_alias, parse_name

ALPHABET = "abcXYZ019._-"
names = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda text: "--" not in text and ".." not in text and not text.endswith(".git")
)
references = st.builds(Reference, st.none() | names, names, names, st.none() | names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/ner", Reference(None, "acme", "ner")),
        ("acme/ner@v3", Reference(None, "acme", "ner", "v3")),
        ("hf::acme/ner@prod", Reference("hf", "acme", "ner", "prod")),
        ("  acme/my-ner_2.1@0a1b2c3 \n", Reference(None, "acme", "my-ner_2.1", "0a1b2c3")),
        ("acme/ner@sha256:0a1b2c3", Reference(None, "acme", "ner", "0a1b2c3")),
        ("a/b", Reference(None, "a", "b")),
        (f"{'n' * 96}/{'m' * 96}", Reference(None, "n" * 96, "m" * 96)),
    ],
)
def test_parses(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ner",
        "/ner",
        "acme/",
        "acme/ner/more",
        "acme/ner@",
        "acme/ner@sha256:",
        "acme/ner@a@b",
        "::acme/ner",
        "a::b::acme/ner",
        "hf:acme/ner",
        "../ner",
        "acme/..",
        "acme/a..b",
        "acme/a--b",
        "acme/.hidden",
        "acme/trailing.",
        "acme/-rf",
        "acme/ner.git",
        "acme/n er",
        "acme/né",
        "acme/ner\n/x",
        "acme/ner\0",
        f"acme/{'n' * 97}",
        "acme\\ner",
        "https://hub.example/acme/ner",
    ],
)
def test_refuses_and_says_what(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_long_text_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("x" * 100_000)
    assert len(str(caught.value)) < 500


@given(references)
def test_parse_undoes_str(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(st.text() | st.text(alphabet=f"{ALPHABET}/@:", max_size=30))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("revision", "number", "commit"),
    [
        (None, None, None),
        ("v1", 1, None),
        ("v12", 12, None),
        ("v0", None, None),
        ("v01", None, None),
        ("V1", None, None),
        ("v1234567890", None, None),
        ("prod", None, None),
        ("abcdef", None, None),
        ("abcdef0", None, "abcdef0"),
        ("0" * 64, None, "0" * 64),
        ("0" * 65, None, None),
        ("ABCDEF0", None, None),
    ],
)
def test_a_revision_is_a_version_a_commit_or_an_alias(
    revision: str | None, number: int | None, commit: str | None
) -> None:
    reference = Reference(None, "acme", "ner", revision)
    assert (reference.number, reference.commit) == (number, commit)


def test_a_constructed_reference_is_checked_too() -> None:
    with pytest.raises(InvalidReference, match=r"namespace '\.\./x'"):
        Reference(None, "../x", "ner")
    with pytest.raises(InvalidReference, match="revision 'a b'"):
        Reference(None, "acme", "ner", "a b")


def test_a_name_has_no_revision() -> None:
    assert parse_name("acme/ner").full_name == "acme/ner"
    with pytest.raises(InvalidReference, match=r"acme/ner@v1 names a revision.*Write acme/ner\."):
        parse_name("acme/ner@v1")


@pytest.mark.parametrize("alias", ["prod", "stable-2", "v", "v1.2", "candidate", "abcdef", "Latest", "xv1"])
def test_aliases(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize(
    "alias",
    [
        "latest",
        "main",
        "v1",
        "V1",
        "v007",
        "abcdef0",
        "ABCDEF0",
        "0" * 80,
        "",
        "a b",
        "a/b",
        "a@b",
        "..",
        "-x",
    ],
)
def test_aliases_that_would_read_as_something_else(alias: str) -> None:
    with pytest.raises(InvalidReference):
        check_alias(alias)
