"""Conversations as train/validation/test.jsonl, in the formats that TRL takes.

A conversation is a list of `{"role", "content"}`; roles are system, user, assistant and tool. Splits go by
the sha256 of the first thing the user says. Does not apply a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from adapthub.adapters.samples.members import (
    keep_licences,
    one,
    split_by,
    write_jsonl,
    write_lines,
)

Row = dict[str, Any]
_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "observation": "tool"}


def instructions(unpacked: Path, target: Path, file: str) -> None:
    """`messages`: the instruction with its input, and the answer."""

    def convert(row: Row) -> Row:
        asked = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
        return {"messages": [_message("user", asked), _message("assistant", row["output"])]}

    _llamafactory(unpacked, target, file, convert)


def preferences(unpacked: Path, target: Path, file: str) -> None:
    """`prompt` (the conversation so far), `chosen` and `rejected` (one answer each)."""

    def convert(row: Row) -> Row:
        answers = {key: [_turn(row[key])] for key in ("chosen", "rejected")}
        return {"prompt": [_turn(turn) for turn in row["conversations"]], **answers}

    _llamafactory(unpacked, target, file, convert)


def feedback(unpacked: Path, target: Path, file: str) -> None:
    """`prompt`, `completion` (its last answer) and `label`, whether that answer is good."""

    def convert(row: Row) -> Row:
        *prompt, completion = row["messages"]
        return {"prompt": prompt, "completion": [completion], "label": row["label"]}

    _llamafactory(unpacked, target, file, convert)


def tool_calls(unpacked: Path, target: Path, file: str) -> None:
    """`messages`, in which the assistant calls functions and tools answer, and `tools`, their schemas."""

    def convert(row: Row) -> Row:
        tools = [{"type": "function", "function": tool} for tool in json.loads(row["tools"] or "[]")]
        return {"messages": [_turn(turn) for turn in row["conversations"]], "tools": tools}

    _llamafactory(unpacked, target, file, convert)


def plain_text(unpacked: Path, target: Path, file: str) -> None:
    """Text for perplexity and for continued training: one article a block, as train/validation/test.txt."""
    package = unpacked / "llamafactory"
    articles = one(package, f"*/data/{file}").read_text(encoding="utf-8").split("\n")
    for split, kept in split_by(articles, lambda article: article).items():
        write_lines(target / f"{split}.txt", (f"{article}\n" for article in kept))
    keep_licences(package, target)


def chatterbot(unpacked: Path, target: Path) -> None:
    """`messages` of two or more turns, and the `language`. A few entries are one text, no conversation, and left out."""
    rows: list[Row] = []
    for path in sorted((unpacked / "chatterbot-corpus").rglob("*.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for turns in (entry for entry in content["conversations"] if isinstance(entry, list)):
            roles = ("user", "assistant")
            said = [_message(roles[i % 2], str(turn).strip()) for i, turn in enumerate(turns)]
            rows.append({"messages": said[: len(said) // 2 * 2], "language": path.parent.name})
    _write(target, (row for row in rows if row["messages"]))


def _llamafactory(unpacked: Path, target: Path, file: str, convert: Callable[[Row], Row]) -> None:
    package = unpacked / "llamafactory"
    _write(target, map(convert, json.loads(one(package, f"*/data/{file}").read_text(encoding="utf-8"))))
    keep_licences(package, target)


def _turn(turn: Row) -> Row:
    if turn["from"] != "function_call":
        return _message(_ROLES[turn["from"]], turn["value"])
    calls = json.loads(turn["value"])
    called = [
        {"type": "function", "function": call} for call in (calls if isinstance(calls, list) else [calls])
    ]
    return {**_message("assistant", ""), "tool_calls": called}


def _message(role: str, content: str) -> Row:
    return {"role": role, "content": content}


def _write(target: Path, rows: Iterable[Row]) -> None:
    """Rows split by what the user asks first; a row that repeats another whole is left out."""
    splits: dict[str, list[Row]] = {}
    for split, groups in split_by(_groups(rows), lambda group: group[0]).items():
        splits[split] = [row for _, group in groups for row in group]
    for split, kept in splits.items():
        write_jsonl(target / f"{split}.jsonl", kept)


def _groups(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by their first question, so that one question never lies in two splits."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        turns = row.get("messages") or row["prompt"]
        asked = next(turn["content"] for turn in turns if turn["role"] == "user")
        group = groups.setdefault(" ".join(asked.casefold().split()), [])
        if row not in group:
            group.append(row)
    yield from groups.items()
