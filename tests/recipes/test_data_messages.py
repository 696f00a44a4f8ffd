"""Conversations in every form that people have them in, and what is none."""

from __future__ import annotations

import datetime
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset as Arrow

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.messages import (
    as_messages,
    conversation_of,
    read_conversations,
    with_system,
)
from adapthub.recipes.data.stored import ExampleWriter

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Hello!"}
TALK = [USER, ANSWER]
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
}
AS_TEXT: dict[str, Any] = {
    "id": "1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 1}'},
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def read(rows: Any, **options: Any) -> list[list[dict[str, Any]]]:
    return [conversation_of(example) for example in read_conversations(rows, settings={}, **options)]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"messages": json.dumps(TALK)},
        {"messages": [*TALK, {"role": "user", "content": "Bye"}]},
        {"messages": [{**message, "tool_calls": None, "name": None} for message in TALK]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"instruction": "Hi", "input": "", "output": "Hello!"},
        {"instruction": "Hi", "context": "", "response": "Hello!", "category": "open_qa"},
        {"prompt": "Hi", "completion": "Hello!"},
        {"prompt": "Hi", "instruction": "not this", "completion": "Hello!"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"Question": "Hi", "Answer": "Hello!"},
    ],
)
def test_every_form_is_the_same_conversation(row: dict[str, Any]) -> None:
    assert read([row]) == [TALK]


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    (tmp_path / "a.csv").write_text("instruction,input,output\nAdd,1 and 2,3\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": TALK}]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "a.parquet") == [TALK]
    assert read(Arrow.from_list([{"messages": TALK}, {"messages": TALK}])) == [TALK, TALK]
    assert read(tmp_path / "a.csv") == [
        [{"role": "user", "content": "Add\n\n1 and 2"}, {"role": "assistant", "content": "3"}]
    ]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"instruction": "Sum up", "context": "All of it.", "response": "It"}, {}),
        ({"instruction": "Sum up", "context": "All of it.", "response": "It"}, {"answer_column": "response"}),
        ({"Instruction": "Sum up", "Input": "All of it.", "Output": "It"}, {"prompt_column": "Instruction"}),
        ({"instruction": "Sum up", "input": "All of it.", "a": "It"}, {"answer_column": "a"}),
    ],
)  # fmt: skip
def test_what_an_instruction_is_about_is_never_lost(row: dict[str, Any], options: Any) -> None:
    (talk,) = read([row], **options)
    assert [message["content"] for message in talk] == ["Sum up\n\nAll of it.", "It"]


def test_a_column_beside_questions_that_is_not_read_is_said() -> None:
    row = {"question": "Who?", "context": "Ada slept.", "answer": "Ada"}
    data = read_conversations([row], settings={})
    assert data.notes == ("the column 'context' is not read: prompts are what 'question' says",)
    assert not read_conversations([row], prompt_column="context", settings={}).notes
    two = {"instruction": "Sum up", "input": "This.", "context": "All of it.", "output": "It"}
    (note,) = read_conversations([two], settings={}).notes
    assert note == "the column 'context' is not read: prompts are what 'instruction' and 'input' say"


def test_the_last_answer_is_the_target() -> None:
    (example,) = read_conversations([{"messages": [*TALK, *TALK]}], settings={})
    assert (example.fields["messages"], example.fields["target"]) == ([*TALK, USER], ANSWER)


def test_a_system_message_is_put_before_conversations_without_one() -> None:
    own = {"role": "system", "content": "Be rude."}
    talks = read(
        [{"messages": TALK, "system": "Be brief."}, {"messages": [own, *TALK], "system": "Be brief."}]
    )
    assert [talk[0]["content"] for talk in talks] == ["Be brief.", "Be rude."]
    assert with_system(TALK, "Be kind.")[0] == {"role": "system", "content": "Be kind."}
    assert with_system(talks[1], "Be kind.") == talks[1]
    assert with_system(TALK, None) == TALK


@pytest.mark.parametrize("column", ["system_prompt", "system_message"])
def test_columns_of_system_messages_have_several_names(column: str) -> None:
    (talk,) = read([{"question": "Hi", "response": "Hello!", column: "Be kind."}])  # OpenOrca's, for one
    assert talk[0] == {"role": "system", "content": "Be kind."}


def test_a_system_message_and_tools_stand_in_columns_in_letters_of_any_case() -> None:
    (example,) = read_conversations([{"Messages": TALK, "System": "Be brief.", "Tools": [TOOL]}], settings={})
    assert conversation_of(example)[0] == {"role": "system", "content": "Be brief."}
    assert example.fields["tools"] == [TOOL]


def test_what_was_said_before_an_instruction_comes_before_it(tmp_path: Path) -> None:
    """As LLaMA-Factory and ChatGLM have it: pairs in a column of their own."""
    alpaca = {"instruction": "Hi", "output": "Hello!", "history": [["Hi", "Hello!"], ["Hi", "Hello!"]]}
    chatglm = {"prompt": "Hi", "response": "Hello!", "history": TALK + TALK}
    (tmp_path / "a.csv").write_text('prompt,answer,history\nHi,Hello!,"[[""Hi"", ""Hello!""]]"\n')
    assert read([alpaca]) == read([chatglm]) == [TALK * 3]
    assert read(tmp_path / "a.csv") == [TALK * 2]
    assert read([{**alpaca, "history": []}, {**alpaca, "history": "of art"}]) == [TALK, TALK]
    with pytest.raises(InvalidData, match="data:row 1: history: message 1 is 'Hi', no message"):
        read([{**alpaca, "history": ["Hi", "Hello!"]}])


@pytest.mark.parametrize("instruction", [None, "", " "])
def test_an_input_without_an_instruction_is_the_prompt(instruction: str | None) -> None:
    assert read([{"instruction": instruction, "input": "Hi", "output": "Hello!"}]) == [TALK]
    with pytest.raises(InvalidData, match="row 1: an instruction or its input is int, not text"):
        read([{"instruction": "Hi", "input": 5, "output": "Hello!"}])


def test_what_messages_have_besides_is_said() -> None:
    thinking = {**ANSWER, "reasoning_content": "A greeting.", "refusal": None}
    rows = [{"messages": TALK}, {"messages": [USER, thinking]}, {"messages": json.dumps([USER, thinking])}]
    (note,) = read_conversations(rows, settings={}).notes
    assert note == (
        "messages of 2 rows have reasoning_content besides, which is not read, the first at data:row 2"
    )


def test_calls_and_tools_of_both_kinds_are_one() -> None:
    openai = {
        "messages": [
            USER,
            {**CALL, "content": None, "tool_calls": [AS_TEXT]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
            ANSWER,
        ],
        "tools": [TOOL],
    }  # fmt: skip
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "Hello!"},
        ],
        "tools": json.dumps([TOOL["function"]]),
    }
    (one,) = read_conversations([openai], settings={})
    (other,) = read_conversations([sharegpt], settings={})
    assert one.fields["tools"] == other.fields["tools"] == [TOOL]
    assert other.fields["messages"] == [USER, CALL, {"role": "tool", "content": "2"}]
    assert one.fields["messages"][1]["tool_calls"] == [{"id": "1", **CALL["tool_calls"][0]}]


def test_openais_functions_of_old_are_tools() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}}
    result = {"role": "function", "name": "add", "content": "1"}
    row = {"messages": [USER, called, result, ANSWER], "functions": [TOOL["function"]]}
    (example,) = read_conversations([row], settings={})
    assert example.fields["messages"] == [USER, CALL, {**result, "role": "tool"}]
    assert example.fields["tools"] == [TOOL]


@pytest.mark.parametrize("nothing", [None, "", "  ", [], {}, "[]", "null", "{}"])
@pytest.mark.parametrize("column", ["tools", "functions"])
def test_an_empty_column_of_tools_is_none(column: str, nothing: Any) -> None:
    (example,) = read_conversations([{"messages": TALK, column: nothing}], settings={})
    assert "tools" not in example.fields


def test_tools_and_functions_are_both_looked_at() -> None:
    row = {"messages": TALK, "tools": None, "functions": [TOOL["function"]]}
    (example,) = read_conversations([row], settings={})
    assert example.fields["tools"] == [TOOL]
    (example,) = read_conversations([{**row, "tools": [TOOL]}], settings={})
    assert example.fields["tools"] == [TOOL]
    other = {**TOOL["function"], "name": "other"}
    with pytest.raises(InvalidData, match="row 1: the columns 'tools' and 'functions' describe unlike"):
        read_conversations([{**row, "tools": [other]}], settings={})
    with pytest.raises(InvalidData, match="row 1: column 'functions' describes no functions"):
        read_conversations([{"messages": TALK, "functions": ["add"]}], settings={})


def test_a_call_may_have_no_arguments() -> None:
    nothing = {"function": {"name": "now", "arguments": ""}}
    (talk,) = read([{"messages": [USER, {"role": "assistant", "tool_calls": [nothing]}]}])
    assert talk[-1]["tool_calls"] == [{"type": "function", "function": {"name": "now", "arguments": {}}}]


def test_arrows_empty_fields_are_no_arguments(tmp_path: Path) -> None:
    """Calls of two functions in one column: each would have the other's argument, empty."""
    import datasets

    def calls(name: str, **arguments: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        properties = {key: {"type": "x"} for key in arguments}
        tool = {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}
        return {
            "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}],
            "tools": [tool],
        }

    rows = [calls("add", a=1), calls("greet", who="Ada")]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "a.parquet")
    expected = read_conversations(rows, settings={}).fingerprint
    for source in (table, tmp_path / "a.parquet"):
        assert read_conversations(source, settings={}).fingerprint == expected


def test_arguments_that_json_has_none_of_are_named(tmp_path: Path) -> None:
    call = {"name": "book", "arguments": {"day": datetime.date(2026, 1, 1)}}
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    read = read_conversations(tmp_path / "a.parquet", settings={})
    with pytest.raises(InvalidData, match=r"a\.parquet:row 1: Object of type date is not JSON serializable"):
        _ = read.fingerprint
    writer = ExampleWriter(tmp_path)
    with closing(writer), pytest.raises(InvalidData, match="row 1: Object of type date"):
        writer.add(read.examples)


def test_messages_may_be_left_unlearnt() -> None:
    (talk,) = read([{"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]}])
    assert [message.get("train") for message in talk] == [None, False, None, None]
    (talk,) = read([{"messages": [USER, {**ANSWER, "train": 0}, USER, {**ANSWER, "train": 1}]}])
    assert [message.get("train") for message in talk] == [None, False, None, None]
    (talk,) = read([{"messages": [USER, {**ANSWER, "train": False}]}])
    assert talk[1]["train"] is False


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER]}, "data:row 2: a chat without an assistant's turn"),
        ({"messages": []}, "data:row 2: no messages"),
        ({"messages": "hello"}, "data:row 2: column 'messages': 'hello' is no JSON"),
        ({"messages": [USER, {**ANSWER, "content": " "}]}, "row 2: message 2, the assistant's, is empty"),
        ({"messages": [{**USER, "content": ""}, ANSWER]}, "row 2: message 1, the user's, is empty"),
        ({"messages": [ANSWER]}, "row 2: message 1 is the assistant's; at the beginning comes one of the system or user"),
        ({"messages": [USER, USER, ANSWER]}, "row 2: message 2 is the user's; after the user's comes one of the assistant"),
        ({"messages": [USER, ANSWER, ANSWER]}, "row 2: message 3 is the assistant's"),
        ({"messages": [USER, CALL, ANSWER]}, "message 3 is the assistant's; after the assistant's comes one of the tool"),
        ({"messages": [{"role": "pilot", "content": "a"}]}, "row 2: message 1 has the role 'pilot'"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "message 2 is learnt with train=None, weight=0.5"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "message 1 is no text"),
        ({"messages": [USER, {**CALL, "tool_calls": [{"function": {"name": "add", "arguments": "{"}}]}]}, "is no JSON"),
        ({"messages": '[{"role": "user", "role": "system"}]'}, "column 'messages': the key 'role' stands twice"),
        ({"messages": [USER, {**CALL, "tool_calls": 5}]}, "message 2 calls no function: 5"),
        ({"messages": [{"role": "user", "text": "Hi"}, ANSWER]}, "message 1 has neither content nor value; there is text"),
        ({"messages": TALK, "tools": "[1]"}, "row 2: column 'tools' describes no functions"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidData) as raised:
        read([{"messages": TALK}, row])
    assert message in raised.value.message


def test_what_says_nothing_is_none() -> None:
    """Behind the last answer, and a system of spaces."""
    (talk,) = read(
        [{"messages": [USER, ANSWER, {"role": "user", "content": None, "audio": {}}], "system": " "}]
    )
    assert [message["role"] for message in talk] == ["user", "assistant"]


def test_messages_as_python_shows_them_are_told_apart_from_json(tmp_path: Path) -> None:
    """As pandas writes a column of lists into CSV."""
    (tmp_path / "a.csv").write_text(f'messages\n"{TALK}"\n')
    with pytest.raises(InvalidData, match=r"a\.csv:2: column 'messages'.* is no JSON.*json\.dumps"):
        read(tmp_path / "a.csv")


def test_columns_that_hold_no_conversations_are_listed() -> None:
    with pytest.raises(InvalidData, match="no conversations: the columns are 'text'"):
        read([{"text": "a"}])
    with pytest.raises(InvalidData, match="no answer column"):
        read([{"prompt": "a"}])


def test_a_text_is_one_message() -> None:
    assert as_messages("[{ is a text", "data:row 1", "user") == [{"role": "user", "content": "[{ is a text"}]


@pytest.mark.parametrize(
    "text", ['[{"name": "Ada", "age": 3}]', '[{"from": "Paris", "to": "London"}]', '[{"role": "dev"}]']
)
def test_an_answer_in_json_that_is_no_messages_is_a_text(text: str) -> None:
    """As models are taught that write down what they find in a text."""
    (talk,) = read([{"prompt": "Who?", "completion": text}])
    assert talk[-1] == {"role": "assistant", "content": text}
    (talk,) = read([{"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])}])
    assert [message["content"] for message in talk] == [USER["content"], ANSWER["content"]]
