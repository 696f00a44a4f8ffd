"""Regular expressions: what generators of adapters write is admitted, what can run for years is not."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.patterns import MAX_LENGTH, check_pattern

ORDINARY = [
    "all-linear",
    "model.layers.0.self_attn.q_proj",
    r".*\.(q|v)_proj$",
    r"model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
    r"^model\.layers\.([0-9]|1[0-5])\.mlp\.(gate|up|down)_proj",
    r"(.*\.)?(?:classifier|score)(\..*)?",
    r".*layer\.[1-3]\..*(query|value|dense)",
    r"encoder.layer.\d{1,2}.attention.self.(query|key|value)",
    r"\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:q_proj|k_proj)",
    # The shape that Unsloth writes for models of vision and language.
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
    r".*?(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:(?:up_proj)))",
]


@pytest.mark.parametrize("pattern", ORDINARY)
def test_ordinary_patterns_are_admitted(pattern: str) -> None:
    check_pattern(pattern, "target_modules")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a+)+b", "repeat inside a repeat"),
        ("(a*)*", "repeat inside a repeat"),
        ("(a|ab)*c", "repeat inside a repeat"),
        ("(?:a?){60}a{60}", "repeat inside a repeat"),
        ("(?:){1000000000}", "repeat inside a repeat, or one longer"),
        ("a?" * 40 + "a" * 40, "too many ways"),
        (".*" * 5 + "x", "too many ways"),
        ("(?:ab|ab|abc|a)" * 30, "too many ways"),
        (r"(a)\1", "back-reference"),
        (r"(?P<n>a)(?P=n)", "back-reference"),
        ("(?=a)a", "look-around"),
        ("(?!a)b", "look-around"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(a)?(?(1)b|c)", "conditional"),
        ("(?>a+)b", "atomic"),
        ("a++b", "possessive"),
        ("(?i)a(b|B)", "flags"),
        ("(?i:a)(b|B)", "flags"),
        ("(", "not a regular expression"),
        ("[z-a]", "not a regular expression"),
        ("a{3,1}", "not a regular expression"),
        ("(" * 900 + ")" * 900, "nested"),
        ("a{99999999999999999999}", "nested or repeated"),
        ("a" * (MAX_LENGTH + 1), f"at most {MAX_LENGTH}"),
    ],
)
def test_patterns_outside_the_subset_are_refused_by_name(pattern: str, words: str) -> None:
    with pytest.raises(AdmissionError, match=words) as refused:
        check_pattern(pattern, "config: target_modules")
    assert "config: target_modules" in str(refused.value)
    assert len(str(refused.value)) < 2 * MAX_LENGTH + 300


@pytest.mark.parametrize(
    "pattern", [".*a.*a.*a.*ab", "(?:a|aa|aaa).*[ab].*a.*a.*b", "a?" * 20 + "a" * 20 + "b"]
)
def test_the_worst_that_is_admitted_ends_soon(pattern: str) -> None:
    check_pattern(pattern, "target_modules")
    started = time.process_time()
    assert re.fullmatch(pattern, "a" * 64) is None
    assert time.process_time() - started < 1


PIECES = st.sampled_from(
    ["a", "b", ".", r"\.", "[ab]", "(", "(?:", ")", "|", "*", "+", "?", "{2,5}", "^", "$", r"\d", "*?"]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_whatever_is_admitted_compiles_and_ends_soon(pattern: str) -> None:
    try:
        check_pattern(pattern, "target_modules")
    except AdmissionError:
        return
    started = time.process_time()
    for name in ("a" * 64, "ab" * 32, "a.b." * 16):
        re.fullmatch(pattern, name)
    assert time.process_time() - started < 1
