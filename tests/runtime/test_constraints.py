"""Grammars: whatever the logits, the text is one of the language; what is no grammar is refused before it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from adapthub.adapters.errors import InvalidInput, SamplingError
from adapthub.runtime.constraints import GrammarConstraint, compile_constraint
from adapthub.runtime.sampler import Sampler, sample
from adapthub.runtime.sampling import Sampled, Sampling
from adapthub.runtime.text_stream import TextStream
from tests.runtime.test_text_stream import tokenizer

ENDS = {"byte-level": frozenset({0}), "byte-fallback": frozenset({1})}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "moods": {"type": "array", "items": {"enum": ["good", "bad"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def letter(text: str) -> int:
    """The byte-level token of one letter."""
    (token,) = tokenizer("byte-level").encode(text, add_special_tokens=False)
    return int(token)


def compiled(kind: str, **options: Any) -> GrammarConstraint:
    constraint = compile_constraint(Sampling(**options), tokenizer(kind), ENDS[kind])
    assert constraint is not None
    return constraint


def text_of(kind: str, seed: int, spread: float = 3.0, **options: Any) -> tuple[str, Sampler]:
    """What random logits come to under a grammar."""
    sampling = Sampling(temperature=1.0, seed=seed, max_new_tokens=400, **options)
    sampler = Sampler(sampling, [5], ENDS[kind], compile_constraint(sampling, tokenizer(kind), ENDS[kind]))
    stream = TextStream(tokenizer(kind))
    noise = torch.Generator().manual_seed(seed)
    # A padded vocabulary, as many models have.
    size = len(tokenizer(kind)) + 23
    while sampler.finish_reason is None:
        (result,) = sample(torch.randn(1, size, generator=noise) * spread, [sampler])
        assert isinstance(result, Sampled)
        if sampler.ended_by is None:
            stream.push(result.token_id)
    stream.finish()
    return stream.text, sampler


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        {"name", "age"} <= value.keys() <= {"name", "age", "moods"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 4
        and isinstance(value["age"], int)
        and 0 <= value["age"] <= 120
        and all(mood in ("good", "bad") for mood in value.get("moods", []))
        and len(value.get("moods", [])) <= 3
    )


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


LANGUAGES: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
    ({"json_schema": PERSON}, is_person),
    ({"json_schema": json.dumps(PERSON)}, is_person),
    ({"json_schema": MappingProxyType(PERSON)}, is_person),
    ({"regex": r"(yes|no), [0-9]{2,5}"}, matches(r"(yes|no), [0-9]{2,5}")),
    ({"regex": r"(the )*film[.!]"}, matches(r"(the )*film[.!]")),
    ({"regex": r"[你好世界🙂é]{3,6}"}, matches(r"[你好世界🙂é]{3,6}")),
    ({"grammar": 'start: "(" start ")" | /[a-c]{2}/'}, matches(r"\(*[a-c]{2}\)*")),
]


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize(
    ("options", "belongs"), LANGUAGES, ids=lambda value: str(value)[:40] if isinstance(value, dict) else ""
)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8)
def test_random_logits_give_texts_of_the_language(
    kind: str, options: dict[str, Any], belongs: Callable[[str], bool], seed: int
) -> None:
    text, sampler = text_of(kind, seed, **options)
    assert sampler.finish_reason == "stop"
    assert belongs(text), text


def test_a_text_over_length_is_cut_like_any_other() -> None:
    sampling = Sampling(max_new_tokens=3, regex="a{40}")
    sampler = Sampler(sampling, [5], ENDS["byte-level"], compiled("byte-level", regex="a{40}"))
    while sampler.finish_reason is None:
        sample(torch.zeros(1, 400), [sampler])
    assert sampler.finish_reason == "length"


def test_json_cannot_be_all_blanks() -> None:
    """Or a model that likes blanks writes them until its tokens are spent."""
    constraint = compiled("byte-level", json_schema=PERSON)
    constraint.advance(letter("{"))
    blank = letter(" ")
    for _ in range(64):
        assert constraint.allowed()[blank]
        constraint.advance(blank)
    assert not constraint.allowed()[blank]


class TestEnds:
    def test_the_text_may_end_only_where_it_is_whole(self) -> None:
        constraint = compiled("byte-level", regex="x+")
        assert not constraint.allowed()[0]
        constraint.advance(letter("x"))
        assert constraint.allowed()[0]
        assert not constraint.finished
        constraint.advance(0)
        assert constraint.finished

    def test_every_end_token_ends_it(self) -> None:
        ends = frozenset({0, 7})
        constraint = compile_constraint(Sampling(regex="x*"), tokenizer("byte-level"), ends)
        assert constraint is not None
        assert constraint.allowed()[[0, 7]].all()

    def test_it_is_finished_once_nothing_can_follow(self) -> None:
        constraint = compiled("byte-level", regex="xy")
        assert not constraint.finished
        for text in "xy":
            constraint.advance(letter(text))
        assert constraint.finished


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"regex": "(a"}, "unclosed group"),
            ({"regex": "a\ud800"}, "surrogates"),
            ({"regex": "(?=a)b"}, "look"),
            ({"regex": r"[^\s\S]"}, "no text matches"),
            ({"grammar": "start: " + '"a" ' * 70_000}, "cannot be used"),
            ({"grammar": "start: missing"}, "missing"),
            ({"grammar": ""}, "Empty"),
            ({"json_schema": '{"type": '}, "line 1"),
            ({"json_schema": '{}}], "x": [{"y": {}'}, "line 1"),
            ({"json_schema": "[1]"}, "JSON object"),
            ({"json_schema": 3}, "JSON object"),
            ({"json_schema": {"const": "\ud800"}}, "hex escape"),
            ({"json_schema": {"type": {1, 2}}}, "serializable"),
            ({"json_schema": {"maximum": float("nan")}}, "float"),
            ({"json_schema": {"type": "unheard-of"}}, "unheard-of"),
            ({"json_schema": {"not": {}}}, "not"),
            ({"json_schema": {"$ref": "http://elsewhere/schema"}}, "elsewhere"),
            ({"json_schema": "[" * 100_000}, "recursion"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_is_no_grammar_names_its_field_and_the_reason(
        self, options: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(InvalidInput, match=re.escape(reason)) as caught:
            compiled("byte-level", **options)
        assert next(iter(options)) in str(caught.value)
        assert len(str(caught.value)) < 400

    def test_a_tokenizer_that_cannot_be_constrained(self) -> None:
        with pytest.raises(InvalidInput, match="tokenizer"):
            compile_constraint(Sampling(regex="a"), tokenizer("word-piece"), frozenset({1}))

    def test_a_token_that_was_not_allowed(self) -> None:
        constraint = compiled("byte-level", regex="xy")
        with pytest.raises(SamplingError, match="grammar"):
            constraint.advance(letter("y"))
        assert not constraint.finished
        with pytest.raises(SamplingError):
            constraint.allowed()


def test_none_is_asked_for() -> None:
    assert compile_constraint(Sampling(), tokenizer("byte-level"), ENDS["byte-level"]) is None


def test_threads_may_compile_at_once() -> None:
    def digits(count: int) -> int:
        return len(text_of("byte-level", count, regex=f"[0-9]{{{count}}}")[0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digits, range(1, 17))) == list(range(1, 17))


def test_a_tokenizer_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer("byte-level")
    first = compile_constraint(Sampling(regex="a"), made, ENDS["byte-level"])
    monkeypatch.setattr("llguidance.hf.from_tokenizer", None)
    assert first is not None
    assert isinstance(made, PreTrainedTokenizerBase)
    assert compile_constraint(Sampling(regex="b"), made, ENDS["byte-level"]) is not None
