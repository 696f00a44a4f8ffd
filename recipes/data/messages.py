"""Conversations: OpenAI's messages, ShareGPT's turns, instructions with answers, prompts with completions.

All become messages as chat templates take them: a role, a content that is text, calls of functions with their arguments as
objects. What is no conversation is refused by row and message. Does not know templates or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import grouped
from adapthub.recipes.data.json_values import DECODER, RepeatedKey
from adapthub.recipes.data.records import Records, repeated_ids
from adapthub.recipes.data.tables import read_records

Message = dict[str, Any]
"""`role` (system, user, assistant, tool) and `content`, a text; where there are such, `tool_calls`, `tool_call_id`, `name`;
`train`: False where an assistant's message is not to be learnt."""

PROMPTS = ("prompt", "question", "query")
ANSWERS = ("completion", "response", "answer")
_MESSAGES = ("messages", "conversations", "conversation")
_INSTRUCTION, _INPUTS, _OUTPUT = "instruction", ("input", "context"), "output"  # context is Dolly's
SYSTEMS = ("system", "system_prompt", "system_message")
_HISTORY, _TOOLS = ("history",), ("tools", "functions")
_READ = {
    "role",
    "from",
    "content",
    "value",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "name",
    "train",
    "weight",
}
_ROLES: Mapping[str, str] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
# What a message has at least: by these it is told from other JSON.
_MARKS = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
# Whose message may follow whose; a message that calls functions is a caller's.
_NEXT: Mapping[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "caller": ("tool",),
    "tool": ("tool", "assistant"),
}


def read_conversations(
    source: str | Path | Any,
    *,
    messages_column: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    settings: Mapping[str, Any],
) -> Dataset:
    """Examples whose `messages` lead to their `target`, the assistant's last message; `tools` where the row describes some.

    What stands behind the last answer is left out; a column `system` is what a conversation begins with, `history` what
    was said before a prompt, and `input` what an instruction is about. `group_column` as
    in `grouped`, `settings` as in Dataset. Raises InvalidData naming row and message: no answer, an
    empty turn, roles in a wrong order.
    """
    records = read_records(source, encoding=encoding, delimiter=delimiter)
    if records.arrow:  # a call would have the arguments of every function, empty
        rows = [replace(row, values=_without_nothing(row.values)) for row in records.rows]
        records = replace(records, rows=rows)
    columns = _columns(records, messages_column, prompt_column, answer_column)
    system = records.find(SYSTEMS) or ""
    described = [column for name in _TOOLS if (column := records.find((name,))) is not None]
    examples = []
    for row in records.rows:
        where = records.where(row)
        messages = _conversation(row.values, columns, where)
        if given := row.values.get(system):
            messages = with_system(messages, _text(given, f"{where}: system"))
        fields = {"messages": messages[:-1], "target": messages[-1]}
        if tools := _tools(row.values, described, where):
            fields["tools"] = tools
        examples.append(Example(fields, records.path, row.line, records.unit))
    notes = *repeated_ids(records), *_left(records, columns), *unread(records, [*columns.values()])
    read = Dataset(tuple(examples), records.path, columns, settings, notes)
    return grouped(read, records, group_column)


def _left(records: Records, columns: Mapping[str, str]) -> Iterator[str]:
    """A note of each column beside prompts that may be what they ask about: of those that are no instructions, and of
    instructions that have another."""
    for column in filter(None, (records.find((name,)) for name in _INPUTS)):
        if "prompt" in columns and column not in columns.values():
            said = f"and {columns['input']!r} say" if "input" in columns else "says"
            yield f"the column {column!r} is not read: prompts are what {columns['prompt']!r} {said}"


def unread(records: Records, columns: Sequence[str]) -> Iterator[str]:
    """A note where messages in these columns have fields, such as reasoning_content, that nobody reads."""
    names: set[str] = set()
    first, count = "", 0
    for row in records.rows:
        own: set[str] = set()
        for column in columns:
            cell = row.values.get(column)
            messages = json_of_messages(cell) if isinstance(cell, str) else cell
            for message in messages if isinstance(messages, list) else [messages]:
                if isinstance(message, Mapping) and not message.keys() <= _READ:
                    own |= {
                        str(name) for name in message.keys() - _READ if message[name] not in (None, "", [])
                    }
        if own:
            names |= own
            count, first = count + 1, first or records.where(row)
    if names:
        yield f"messages of {count} rows have {', '.join(sorted(names))} besides, which is not read, the first at {first}"


def beside(prompt: Any, more: Any, where: str) -> Any:
    """A prompt with what Alpaca's rows have beside it in `input`. Raises InvalidData where that is no text."""
    if more is None or (isinstance(more, str) and not more.strip()):
        return prompt
    if not isinstance(more, str) or not isinstance(prompt, str | None):
        what = type(more if not isinstance(more, str) else prompt).__name__
        raise InvalidData(
            f"{where}: an instruction or its input is {what}, not text", hint="Correct the row."
        )
    return f"{prompt}\n\n{more}" if prompt and prompt.strip() else more


def _without_nothing(value: Any) -> Any:
    """Without the fields of objects that are None, however deep."""
    if isinstance(value, Mapping):
        return {name: _without_nothing(part) for name, part in value.items() if part is not None}
    return [_without_nothing(part) for part in value] if isinstance(value, list) else value


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """A conversation that begins with `system`, unless it has such a message."""
    if not (system and system.strip()) or messages[0]["role"] == "system":
        return [*messages]
    return [{"role": "system", "content": system}, *messages]


def conversation_of(example: Example) -> list[Message]:
    """All messages of an example, the target last."""
    return [*example.fields["messages"], example.fields["target"]]


def as_messages(value: Any, where: str, role: str) -> list[Message]:
    """A list of messages, of OpenAI's kind or ShareGPT's, or the JSON of one; another text is one message of `role`.

    Raises InvalidData for anything else; does not ask whose turn it is (`check_turns`).
    """
    if isinstance(value, str):
        found = json_of_messages(value)
        if found is None:
            return [{"role": role, "content": value}]
        value = found
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or not value or isinstance(value, bytes):
        raise InvalidData(
            f"{where}: no messages but {value!r:.60}",
            hint='Give a list such as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
        )
    return [_message(message, f"{where}: message {at}") for at, message in enumerate(value, start=1)]


def json_of_messages(text: str) -> list[Any] | None:
    """What a text says that is the JSON of messages, as a table's cell has them; None for any other text, be it other JSON,
    such as an answer that lists what was found."""
    if not text.lstrip().startswith("[{"):
        return None
    with suppress(ValueError, RecursionError):  # a text that only looks like it
        found = json.loads(text)
        if all(isinstance(one, dict) and any(keys <= one.keys() for keys in _MARKS) for one in found):
            return list(found)
    return None


def check_turns(messages: Sequence[Message], where: str) -> None:
    """A user speaks first, perhaps after the system, and the assistant last; calls are followed by what they came to.

    Raises InvalidData naming the message whose turn it is not, or that says nothing.
    """
    last = ""
    for at, message in enumerate(messages, start=1):
        role = message["role"]
        if role not in _NEXT[last]:
            after = f"after the {last.replace('caller', 'assistant')}'s" if last else "at the beginning"
            raise InvalidData(
                f"{where}: message {at} is the {role}'s; {after} comes one of the {' or '.join(_NEXT[last])}",
                hint="Join messages of one role, and put each answer behind what it answers."
                if last
                else "Remove it, or put what it answers before it.",
            )
        calls = bool(message.get("tool_calls"))
        if role != "tool" and not calls and not message["content"].strip():
            raise InvalidData(f"{where}: message {at}, the {role}'s, is empty", hint="Remove the row.")
        last = "caller" if calls else role
    if last not in ("assistant", "caller"):
        raise InvalidData(f"{where}: the assistant says nothing", hint="Remove the row, or give an answer.")


def _tools(values: Mapping[str, Any], columns: Sequence[str], where: str) -> list[dict[str, Any]]:
    """What the one of `columns` says that is not empty. Raises InvalidData where two say unlike things."""
    found = [
        tools for column in columns if (tools := _tools_of(values.get(column), f"{where}: column {column!r}"))
    ]
    if any(tools != found[0] for tools in found):
        raise InvalidData(
            f"{where}: the columns {' and '.join(map(repr, columns))} describe unlike functions",
            hint="Leave one of them empty.",
        )
    return found[0] if found else []


def _tools_of(value: Any, where: str) -> list[dict[str, Any]]:
    """Functions that the assistant may call, each as OpenAI describes it; none of an empty value. Raises InvalidData."""
    if isinstance(value, str):
        value = _parsed(value, where) if value.strip() else None
    if not value:
        return []
    tools = value if isinstance(value, Sequence) else [value]
    described = [tool.get("function", tool) if isinstance(tool, Mapping) else None for tool in tools]
    if any(not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str) for tool in described):
        raise InvalidData(
            f"{where} describes no functions",
            hint='Give a list of {"type": "function", "function": {"name": ..., "parameters": ...}}, or rename the column.',
        )
    return [{"type": "function", "function": dict(tool)} for tool in described if tool is not None]


def _columns(
    records: Records, messages: str | None, prompt: str | None, answer: str | None
) -> dict[str, str]:
    """Which column is what: messages; instruction, input and output; or prompt and answer."""
    if messages is not None or (prompt is None and records.find(_MESSAGES) is not None):
        return {"messages": records.column("messages", messages, _MESSAGES)}
    instruction, usual = records.find((_INSTRUCTION,)), records.find(PROMPTS)
    if prompt is None and instruction is None and usual is None:
        raise InvalidData(
            f"{records.path}: no conversations: the columns are {', '.join(map(repr, records.columns))}",
            hint="Name a column messages or conversations; or instruction and output; or prompt and completion;"
            " or set messages_column, or prompt_column and answer_column.",
        )
    is_alpaca = instruction is not None and (answer is not None or records.find((_OUTPUT,)) is not None)
    if prompt is None:
        prompt = instruction if is_alpaca or usual is None else usual
    of_alpaca = prompt == instruction  # whoever named it
    columns = {
        "prompt": records.column("prompt", prompt, PROMPTS),
        "answer": records.column("answer", answer, (_OUTPUT, *ANSWERS) if of_alpaca else ANSWERS),
        "input": records.find(_INPUTS) if of_alpaca else None,
        "history": records.find(_HISTORY),
    }
    return {part: column for part, column in columns.items() if column is not None}


def _conversation(values: Mapping[str, Any], columns: Mapping[str, str], where: str) -> list[Message]:
    """Messages up to the assistant's last."""
    if "messages" in columns:
        value = values.get(columns["messages"])
        if isinstance(value, str):
            value = _parsed(value, f"{where}: column {columns['messages']!r}")
        messages = as_messages(value, where, "user")
    else:
        prompt = beside(values.get(columns["prompt"]), values.get(columns.get("input", "")), where)
        messages = _history(values.get(columns.get("history", "")), f"{where}: history")
        messages += as_messages(prompt, f"{where}: {columns['prompt']}", "user")
        messages += as_messages(values.get(columns["answer"]), f"{where}: {columns['answer']}", "assistant")
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise InvalidData(f"{where}: a chat without an assistant's turn", hint="Remove the row.")
    check_turns(messages[: answers[-1] + 1], where)
    return messages[: answers[-1] + 1]


def _history(value: Any, where: str) -> list[Message]:
    """Earlier turns: pairs of what was asked and answered, as LLaMA-Factory's Alpaca rows have them, or messages."""
    if isinstance(value, str):  # another text is a column that only has this name
        value = _parsed(value, where) if value.lstrip().startswith("[") else None
    if not value:
        return []
    if isinstance(value, Sequence) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in value
    ):
        said = (
            (role, text) for pair in value for role, text in zip(("user", "assistant"), pair, strict=True)
        )
        return [message for role, text in said for message in as_messages(text, where, role)]
    return as_messages(value, where, "user")


def _message(message: Any, where: str) -> Message:
    """One message of either kind; fields that are None, as tables fill them, are none."""
    if not isinstance(message, Mapping):
        raise InvalidData(f"{where} is {message!r:.60}, no message", hint="Give role and content.")
    said = message.get("role", message.get("from"))
    role = _ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        raise InvalidData(f"{where} has the role {said!r:.60}", hint=f"Roles are {', '.join(_ROLES)}.")
    content = message["content"] if "content" in message else message.get("value")
    calls = message.get("tool_calls") or message.get("function_call")  # the second is OpenAI's of old
    said_nothing = not ("content" in message or "value" in message or calls)
    if said_nothing and (others := message.keys() - _READ):
        raise InvalidData(
            f"{where} has neither content nor value; there is {', '.join(sorted(map(str, others)))}",
            hint="Call what is said content.",
        )
    plain: Message = {"role": role, "content": _text("" if content is None else content, where)}
    if said == "function_call":
        calls, plain["content"] = _parsed(plain["content"], where), ""
    if calls:
        plain["tool_calls"] = [_call(call, where) for call in (calls if isinstance(calls, list) else [calls])]
    plain |= {name: message[name] for name in ("tool_call_id", "name") if message.get(name) is not None}
    if not _is_learnt(message, where):
        plain["train"] = False
    return plain


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        texts = [part.get("text") if part.get("type", "text") == "text" else None for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(text for text in texts if text is not None)
    raise InvalidData(f"{where} is no text but {content!r:.60}", hint="Chats here are of texts alone.")


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    arguments = function.get("arguments", {}) if isinstance(function, Mapping) else None
    if isinstance(arguments, str):
        arguments = _parsed(arguments, where) if arguments.strip() else {}
    if not isinstance(function, Mapping) or not isinstance(arguments, Mapping) or not function.get("name"):
        raise InvalidData(
            f"{where} calls no function: {call!r:.60}", hint='Give {"name": ..., "arguments": {...}}.'
        )
    identity = {"id": call["id"]} if call.get("id") is not None else {}
    return {
        **identity,
        "type": "function",
        "function": {"name": function["name"], "arguments": dict(arguments)},
    }


def _parsed(text: str, where: str) -> Any:
    try:
        return DECODER.decode(text)
    except RepeatedKey as error:
        raise InvalidData(f"{where}: {error}", hint="Leave one out, or rename it.") from error
    except (ValueError, RecursionError) as error:
        of_python = text.lstrip().startswith(("[{'", "{'"))
        raise InvalidData(
            f"{where}: {text!r:.60} is no JSON",
            hint="It is Python's own form: write JSON, by json.dumps." if of_python else "Correct the row.",
        ) from error


def _is_learnt(message: Mapping[str, Any], where: str) -> bool:
    """`train`, or `weight` as OpenAI has it: 0 or 1."""
    train, weight = message.get("train"), message.get("weight")  # 0 and 1 are false and true
    if train not in (None, True, False) or weight not in (None, 0, 1):
        raise InvalidData(
            f"{where} is learnt with train={train!r}, weight={weight!r}",
            hint="train is true or false, weight 0 or 1.",
        )
    return train in (None, True) and weight != 0
