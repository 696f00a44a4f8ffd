"""Calls as models write them, piece by piece and in one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampled
from adapthub.runtime.server.openai_answers import Reader
from adapthub.runtime.server.tool_calls import Function, Tool, ToolText, opening_of, schema_of_call

HERMES, MISTRAL, BARE = "<tool_call>", "[TOOL_CALLS]", "{"
WEATHER = ("weather", {"city": "Paris"})
TIME: tuple[str, dict[str, str]] = ("time", {})
_WEATHER = '{"name": "weather", "arguments": {"city": "Paris"}}'
_TIME = '{"name": "time", "arguments": {}}'
_UNKNOWN = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'
_TAGGED = '{"name": "weather", "arguments": {"city": "<tool_call>"}}'
_LLAMAS = '{"name": "weather", "parameters": {"city": "Paris"}}'
TEXTS: list[tuple[str, str, str, list[tuple[str, dict[str, str]]]]] = [  # opening, text, content, calls
    (HERMES, f"<tool_call>\n{_WEATHER}\n</tool_call>", "", [WEATHER]),
    (HERMES, f"So:<tool_call>{_TIME}</tool_call>\n<tool_call>{_WEATHER}", "So:", [TIME, WEATHER]),
    (HERMES, f"a < b <tool {_TIME}", f"a < b <tool {_TIME}", []),
    (HERMES, "<tool_call>{broken</tool_call>", "<tool_call>{broken</tool_call>", []),
    (HERMES, _UNKNOWN, _UNKNOWN, []),
    (
        HERMES,
        f"So:<tool_call>{_TIME}</tool_call> and\n<tool_call>{_WEATHER}</tool_call>\nBye.",
        "So: and\n\nBye.",
        [TIME, WEATHER],
    ),
    (HERMES, f"<tool_call>{_TAGGED}</tool_call>", "", [("weather", {"city": "<tool_call>"})]),
    (MISTRAL, f"[TOOL_CALLS][{_WEATHER}, {_TIME}]", "", [WEATHER, TIME]),
    (MISTRAL, f"[TOOL_CALLS] [{_TIME}] Bye.", " Bye.", [TIME]),
    (BARE, _LLAMAS, "", [WEATHER]),
    (BARE, f" {_TIME}; {_LLAMAS}", " ", [TIME, WEATHER]),
    (BARE, "A set {1, 2} of " + _TIME, "A set {1, 2} of " + _TIME, []),
    (BARE, '{"temperature": 3}', '{"temperature": 3}', []),
    (BARE, '{"name": "time", "parameters": [1]}', '{"name": "time", "parameters": [1]}', []),
    (BARE, '{"name": "time", "para', '{"name": "time", "para', []),
    (BARE, "", "", []),
]


@pytest.mark.parametrize(("opening", "text", "content", "calls"), TEXTS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_are_read(
    opening: str, text: str, content: str, calls: list[tuple[str, dict[str, str]]], size: int
) -> None:
    reading = ToolText(opening, ["weather", "time"], forced=False)
    given = "".join(reading.push(text[at : at + size]) for at in range(0, len(text), size))
    rest, found = reading.finish()
    assert given + rest == content
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls


@pytest.mark.parametrize("opening", [HERMES, MISTRAL, BARE])
def test_of_several_calls_the_first_alone_where_asked(opening: str) -> None:
    texts = {
        HERMES: f"{HERMES}{_TIME}</tool_call>{HERMES}{_WEATHER}",
        MISTRAL: f"{MISTRAL}[{_TIME}, {_WEATHER}]",
    }
    reading = ToolText(opening, ["weather", "time"], forced=False, single=True)
    assert reading.push(texts.get(opening, f"{_TIME};{_WEATHER}")) == ""
    rest, (call,) = reading.finish()
    assert (rest, call.name) == ("", "time")


def test_a_megabyte_of_blanks_is_read_at_once() -> None:
    """A pattern that looks for the end anew from each of them would take hours."""
    text = HERMES + "x" + " " * 1_000_000 + "x"
    reading = ToolText(HERMES, ["time"], forced=False)
    assert reading.push(text) == ""
    assert reading.finish() == (text, [])


def test_text_comes_as_soon_as_it_is_certain() -> None:
    reading = ToolText(HERMES, ["time"], forced=False)
    assert [reading.push(new) for new in ("so <", "b ", "<tool", "_call>", "{")] == ["so ", "<b ", "", "", ""]


def test_an_opening_that_is_no_text_to_the_tokenizer() -> None:
    """As Mistral's: a special token, which is left out of the text."""
    reader = Reader(frozenset({2}), ToolText(MISTRAL, ["time"], forced=False), {7: MISTRAL})
    first = reader.read(Event("", (Sampled(7),)))
    last = reader.read(Event('[{"name": "time", "arguments": {}}]', (Sampled(8), Sampled(2)), "stop"))
    assert (first.text, last.text, last.finish_reason) == ("", "", "tool_calls")
    assert [call.name for call in last.calls] == ["time"]
    assert last.tokens == (Sampled(8),), "without the end token"


@pytest.mark.parametrize(
    ("template", "opening"),
    [("... <tool_call>\\n ...", HERMES), ("{{ '[TOOL_CALLS]' }}", MISTRAL), ("<|python_tag|>", BARE)],
)
def test_the_template_says_how_calls_are_written(template: str, opening: str) -> None:
    assert opening_of(template) == opening


def test_parameters_refer_to_their_own_definitions() -> None:
    """Two tools' definitions of one name stay apart, and so do references to the whole of the parameters."""

    def tool(name: str, parameters: dict[str, Any]) -> Tool:
        return Tool(type="function", function=Function(name=name, parameters=parameters))

    def of(place: dict[str, Any]) -> dict[str, Any]:
        at = {"properties": {"at": {"$ref": "#/$defs/Place"}}, "required": ["at"]}
        return {"type": "object", "$defs": {"Place": place}} | at

    tree = {"type": "object", "properties": {"below": {"$ref": "#"}}, "additionalProperties": False}
    given = [tool("name", of({"enum": ["Paris"]})), tool("number", of({"enum": [75]})), tool("tree", tree)]
    grammar = LLMatcher.grammar_from_json_schema(schema_of_call(given))

    def fits(call: dict[str, Any]) -> bool:
        matcher = LLMatcher(LLTokenizer("byte"), grammar)
        assert not matcher.is_error(), matcher.get_error()
        text = json.dumps(call, separators=(",", ":")).encode()
        return matcher.try_consume_tokens([*text]) == len(text) and matcher.is_accepting()

    for name, arguments, expected in [
        ("name", {"at": "Paris"}, True),
        ("name", {"at": 75}, False),
        ("number", {"at": 75}, True),
        ("number", {"at": "Paris"}, False),
        ("tree", {"below": {"below": {}}}, True),
        ("tree", {"below": {"name": "tree"}}, False),
    ]:
        assert fits({"name": name, "arguments": arguments}) is expected, (name, arguments)
    assert given[0].function.parameters == of({"enum": ["Paris"]}), "what the template shows is as it was"
