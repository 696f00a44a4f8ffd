"""What is masked before a text is kept, that positions stay true, and that a hook that fails keeps nothing."""

from __future__ import annotations

import re

import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.runtime.redaction import Redaction


@pytest.mark.parametrize(
    "secret",
    [
        "ada.lovelace+notes@mail.example.org",
        "+44 20 7946 0958",
        "(030) 901820-0",
        "4111 1111 1111 1111",
        "4111111111111111",
        "ah_0a1b2c3d_" + "x" * 43,
        "sk-proj-abcDEF123456ghi",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "my_card_4111111111111111",
        "card4111111111111111",
        "41111111111111112222222222222222",
        "my_phone_442079460958",
        "my_key_sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "wJalrXUtnFEMI+K7MDENG/bPxRfiCYEXAMPLEKEYwJalrXUtnFEMI==",
        "x" * 45 + "123456",
    ],
)
def test_what_has_the_form_of_a_secret_is_masked(secret: str) -> None:
    text = f"Write to {secret}, please."
    masked = Redaction()(text)
    assert masked is not None
    assert masked != text
    assert (masked[:9], masked[-9:], len(masked)) == ("Write to ", ", please.", len(text))
    for part in re.findall(r"\w{3,}", secret):
        assert part not in masked
    assert set(re.findall(r"\d", masked)) <= {"0"}


@pytest.mark.parametrize(
    "text",
    [
        "Ada met Bob in London in 1843.",
        "It cost 12.50 and weighed 3,000 g.",
        "room 42, floor 7",
        "/usr/share/doc/python3/examples/serving/more.txt",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert Redaction()(text) == text


def test_patterns_and_a_hook_come_on_top() -> None:
    redact = Redaction([r"PRJ-\d+"], f"{__name__}:without_ada")
    assert redact("Ada writes of PRJ-77") == "*** writes of xxx-00"


def without_ada(text: str) -> str:
    return text.replace("Ada", "***")


def shorter(text: str) -> str:
    return text[1:]


def failing(text: str) -> str:
    raise RuntimeError(text)


@pytest.mark.parametrize("hook", ["shorter", "failing"])
def test_a_hook_that_cannot_be_trusted_keeps_nothing(hook: str) -> None:
    assert Redaction(hook=f"{__name__}:{hook}")("Ada") is None


@pytest.mark.parametrize("hook", ["", "nothing", "no.such:one", f"{__name__}:none", f"{__name__}:__name__"])
def test_a_hook_that_is_none_is_refused(hook: str) -> None:
    with pytest.raises(InvalidSettings, match="cannot be imported|is no function"):
        Redaction(hook=hook)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"'\('"):
        Redaction(["("])


@pytest.mark.parametrize(
    "unit", ["a", "1", "1 ", "a-", "a@a", "a.", "(", "a1", "A1/", "sk_", "AA11", " AA11", "@", "_"]
)
def test_a_huge_text_is_masked_in_linear_time(unit: str) -> None:
    """It comes back at all: what is quadratic in its characters takes hours."""
    text = "a@" + unit * (400_000 // len(unit)) + "!"
    masked = Redaction()(text)
    assert masked is not None
    assert len(masked) == len(text)
