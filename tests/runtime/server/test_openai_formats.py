"""Chat completions that must have a form: JSON, grammars, calls of tools; and what OpenAI's client builds on them."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.test_openai_chat import MESSAGES, base_of, streamed_text

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Berlin"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
TIME: Any = {"type": "function", "function": {"name": "time", "parameters": CITY}}


class TestFormats:
    def test_a_schema_is_followed(self, speller: openai.OpenAI, spelling_server: Running) -> None:
        answer = speller.chat.completions.create(
            model=base_of(spelling_server),
            messages=MESSAGES,
            temperature=0,
            response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
        )
        assert answer.choices[0].message.content is not None
        assert json.loads(answer.choices[0].message.content)["city"] in ("Paris", "Berlin")
        assert answer.choices[0].finish_reason == "stop"

    def test_any_object(self, speller: openai.OpenAI, spelling_server: Running) -> None:
        answer = speller.chat.completions.create(
            model=base_of(spelling_server),
            messages=MESSAGES,
            max_tokens=30,
            temperature=0,
            response_format={"type": "json_object"},
        )
        assert (answer.choices[0].message.content or "").lstrip().startswith("{")

    @pytest.mark.parametrize(
        ("structured", "texts"),
        [
            ({"regex": "(ab){3}"}, ["ababab"]),
            ({"grammar": 'start: "x" "y"'}, ["xy"]),
            ({"choice": ['say "hi"', "b|c"]}, ['say "hi"', "b|c"]),
            ({"json": {"const": "é"}}, ['"é"', '"\\u00e9"']),
        ],
    )
    def test_vllms_structured_outputs(
        self, speller: openai.OpenAI, spelling_server: Running, structured: dict[str, Any], texts: list[str]
    ) -> None:
        answer = speller.chat.completions.create(
            model=base_of(spelling_server),
            messages=MESSAGES,
            extra_body={"structured_outputs": structured},
        )
        assert answer.choices[0].message.content in texts


class Place(BaseModel):
    city: Literal["Paris", "Berlin"]
    size: Literal[1, 2]


class TestHelpers:
    """What the client builds on top of the API."""

    def test_parsed_answers(self, speller: openai.OpenAI, spelling_server: Running) -> None:
        answer = speller.chat.completions.parse(
            model=base_of(spelling_server), messages=MESSAGES, temperature=0, response_format=Place
        )
        place = answer.choices[0].message.parsed
        assert isinstance(place, Place)

    def test_accumulated_streams(self, speller: openai.OpenAI, spelling_server: Running) -> None:
        options: Any = {"model": base_of(spelling_server), "messages": MESSAGES, "temperature": 0}
        tool = openai.pydantic_function_tool(Place)
        choice: Any = {"type": "function", "function": {"name": "Place"}}
        with speller.chat.completions.stream(**options, tools=[tool], tool_choice=choice) as stream:
            answer = stream.get_final_completion()
        assert answer.choices[0].message.tool_calls is not None
        (call,) = answer.choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments, Place)
        options |= {"logprobs": True, "extra_body": {"structured_outputs": {"regex": "(ab){3}"}}}
        with speller.chat.completions.stream(**options) as plain:
            streamed = plain.get_final_completion().choices[0]
        whole = speller.chat.completions.create(**options).choices[0]
        assert streamed.message.content == whole.message.content == "ababab"
        assert streamed.logprobs == whole.logprobs


class TestTools:
    CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'

    @pytest.mark.parametrize("before", ["", "Well. "])
    def test_a_call_is_read_from_the_text(
        self, speller: openai.OpenAI, spelling_server: Running, before: str
    ) -> None:
        """The model is made to write it."""
        options: Any = {
            "model": base_of(spelling_server),
            "messages": MESSAGES,
            "tools": [WEATHER, TIME],
            "extra_body": {"structured_outputs": {"choice": [before + self.CALL]}},
        }
        (choice,) = speller.chat.completions.create(**options).choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == (before or None)
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})

        chunks = list(speller.chat.completions.create(**options, stream=True))
        assert streamed_text(chunks) == before
        (streamed,) = [
            one for chunk in chunks for choice in chunk.choices for one in choice.delta.tool_calls or ()
        ]
        assert streamed.function is not None
        assert streamed.function.arguments == call.function.arguments
        assert chunks[-1].choices[0].finish_reason == "tool_calls"

    @pytest.mark.parametrize(("parallel", "number"), [(True, 2), (False, 1)])
    def test_calls_with_text_around_them_and_of_several_one_where_asked(
        self, speller: openai.OpenAI, spelling_server: Running, parallel: bool, number: int
    ) -> None:
        call = '<tool_call>{"name": "f"}</tool_call>'
        options: Any = {
            "model": base_of(spelling_server),
            "messages": MESSAGES,
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "parallel_tool_calls": parallel,
            "extra_body": {"structured_outputs": {"choice": [f"Well. {call}{call} Bye."]}},
        }
        message = speller.chat.completions.create(**options).choices[0].message
        assert message.content == "Well.  Bye."
        assert len(message.tool_calls or ()) == number
        chunks = list(speller.chat.completions.create(**options, stream=True))
        assert streamed_text(chunks) == message.content
        assert sum(len(chunk.choices[0].delta.tool_calls or ()) for chunk in chunks) == number

    @pytest.mark.parametrize(
        ("choice", "names"),
        [("required", {"weather", "time"}), ({"type": "function", "function": {"name": "time"}}, {"time"})],
    )
    def test_a_call_can_be_asked_for(
        self, speller: openai.OpenAI, spelling_server: Running, choice: Any, names: set[str]
    ) -> None:
        answer = speller.chat.completions.create(
            model=base_of(spelling_server),
            messages=MESSAGES,
            tools=[WEATHER, TIME],
            tool_choice=choice,
            temperature=0,
        )
        assert answer.choices[0].message.tool_calls is not None
        (call,) = answer.choices[0].message.tool_calls
        assert call.type == "function"
        assert call.function.name in names
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Berlin")
        assert answer.choices[0].finish_reason == "tool_calls"

    def test_tools_and_calls_are_in_the_prompt(
        self, speller: openai.OpenAI, spelling_server: Running
    ) -> None:
        """None of them is called: the answer is what the runtime makes of the same text."""
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
        }
        messages: Any = [
            *MESSAGES,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "fine", "tool_call_id": "call_1"},
        ]
        prompt: Any = spelling_server.serving.runtime.generation.tokenizer.apply_chat_template(
            [
                *MESSAGES,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}],
                },
                {"role": "tool", "content": "fine"},
            ],
            tools=[WEATHER],
            tokenize=False,
            add_generation_prompt=True,
        )
        (wanted,) = spelling_server.serving.runtime.generate([prompt], max_new_tokens=5)
        answer = speller.chat.completions.create(
            model=base_of(spelling_server), messages=messages, tools=[WEATHER], max_tokens=5, temperature=0
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == wanted.usage.prompt_tokens
        assert answer.choices[0].message.content == wanted.text

    def test_tool_choice_none_tells_the_model_of_none(
        self, speller: openai.OpenAI, spelling_server: Running
    ) -> None:
        options: Any = {"model": base_of(spelling_server), "messages": MESSAGES, "max_tokens": 2}
        without = speller.chat.completions.create(**options)
        none = speller.chat.completions.create(**options, tools=[WEATHER], tool_choice="none")
        assert without.usage is not None
        assert none.usage is not None
        assert none.usage.prompt_tokens == without.usage.prompt_tokens

    def test_a_template_without_tools(self, client: openai.OpenAI, server: Running) -> None:
        with pytest.raises(openai.BadRequestError, match="has no tools"):
            client.chat.completions.create(model=base_of(server), messages=MESSAGES, tools=[WEATHER])
