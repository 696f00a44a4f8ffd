"""Answers that people judged: pairs of a better and a worse answer to one prompt, or single answers that are good or bad.

Prompts and answers are texts or lists of messages, OpenAI's or ShareGPT's; a prompt that is not given is what both answers
begin with. Does not apply a chat template or tokenise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import grouped
from adapthub.recipes.data.messages import (
    SYSTEMS,
    Message,
    as_messages,
    beside,
    json_of_messages,
    unread,
    with_system,
)
from adapthub.recipes.data.records import Record, Records, repeated_ids
from adapthub.recipes.data.tables import read_records

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "conversations", "input"),
    "chosen": ("chosen", "preferred", "better"),
    "rejected": ("rejected", "dispreferred", "worse"),
    "answer": ("completion", "answer", "response", "output"),
    "label": ("label", "good", "rating"),
}
"""The usual names of each column."""

_TRUE = ("true", "True")  # in a CSV file
_JUDGEMENTS = {
    **dict.fromkeys(("true", "good", "yes", "1", "thumbs_up", "desirable"), True),
    **dict.fromkeys(("false", "bad", "no", "0", "-1", "thumbs_down", "undesirable"), False),
}


def read_preferences(
    source: str | Path | Any,
    columns: Mapping[str, str | None],
    *,
    group: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> Dataset:
    """Pairs as {"prompt": messages, "chosen": text, "rejected": text}, answers that stand alone as {"prompt": messages,
    "answer": text, "good": bool}; a file may hold both.

    `columns`: the column of each of COLUMNS that the caller named; `group` as in `grouped`. A column `rendered` that is true
    says that a prompt is written as the base reads it; it is then in the fields too. Raises InvalidData naming the row: an
    answer that is empty or ends without the assistant, equal answers, answers to different prompts, a judgement that is
    none.
    """
    records = read_records(source, encoding=encoding, delimiter=delimiter)
    found = _columns(records, columns)
    examples = tuple(
        Example(_Reader(records, row, found).fields(), records.path, row.line, records.unit)
        for row in records.rows
    )
    notes = *repeated_ids(records), *unread(records, [*found.values()])
    read = Dataset(examples, records.path, found, notes=notes)
    return grouped(read, records, group)


def is_pair(example: Example) -> bool:
    """Whether an example holds two answers."""
    return "chosen" in example.fields


def judged(dataset: Dataset) -> Dataset:
    """The same answers, each for itself: of a pair the chosen one as good, the rejected one as bad."""
    examples = tuple(answer for example in dataset for answer in _answers(example))
    return Dataset(examples, dataset.source, dataset.columns, dataset.settings, dataset.notes)


def _answers(example: Example) -> Iterator[Example]:
    if not is_pair(example):
        yield example
        return
    shared = {name: value for name, value in example.fields.items() if name not in ("chosen", "rejected")}
    for name, good in (("chosen", True), ("rejected", False)):
        fields = {**shared, "answer": example.fields[name], "good": good}
        yield Example(fields, example.path, example.line, example.unit)


def _columns(records: Records, given: Mapping[str, str | None]) -> dict[str, str]:
    """Column names by what they hold. Raises InvalidData without both columns of either kind."""
    present = {name.strip().lower() for name in records.columns}
    found = {
        role: records.column(role, given.get(role), usual)
        for role, usual in COLUMNS.items()
        if given.get(role) is not None or present.intersection(usual)
    }
    if not {"chosen", "rejected"} <= found.keys() and not {"answer", "label"} <= found.keys():
        there = ", ".join(map(repr, records.columns))
        raise InvalidData(
            f"{records.path}: neither pairs nor judged answers; the columns are {there}",
            hint="Pairs have chosen and rejected; judged answers have completion and label. Name them with"
            " chosen_column, rejected_column, answer_column or label_column.",
        )
    return found


@dataclass(frozen=True)
class _Reader:
    """One row."""

    records: Records
    row: Record
    columns: Mapping[str, str]

    def fields(self) -> dict[str, Any]:
        is_rendered = self.row.values.get(self.records.find(("rendered",)) or "")
        rendered = {"rendered": True} if is_rendered is True or is_rendered in _TRUE else {}
        if self._value("chosen") is not None or self._value("rejected") is not None:
            return {**self._pair(), **rendered}
        return {**self._judged(), **rendered}

    def _pair(self) -> dict[str, Any]:
        (before_chosen, chosen), (before_rejected, rejected) = map(self._answer, ("chosen", "rejected"))
        prompts = [prompt for prompt in (self._prompt(), before_chosen, before_rejected) if prompt]
        if not prompts:
            shared, chosen, rejected = self._shared(chosen, rejected)
            prompts = [shared]
        if any(_said(prompt) != _said(prompts[0]) for prompt in prompts[1:]):
            raise self._error(
                "chosen and rejected answer different prompts",
                "A pair is two answers to one conversation; only the last turn may differ.",
            )
        if chosen.strip() == rejected.strip():
            raise self._error("chosen and rejected are equal", "Remove the row: nothing can be learnt of it.")
        return {"prompt": self._checked(prompts[0]), "chosen": chosen, "rejected": rejected}

    def _judged(self) -> dict[str, Any]:
        before, answer = self._answer("answer")
        prompts = [prompt for prompt in (self._prompt(), before) if prompt]
        if not prompts:
            raise self._error("there is no prompt", "Name its column with prompt_column.")
        if _said(prompts[0]) != _said(prompts[-1]):
            raise self._error("the answer is to another prompt than the row's", "Leave one of them out.")
        return {"prompt": self._checked(prompts[0]), "answer": answer, "good": self._judgement()}

    def _answer(self, role: str) -> tuple[list[Message] | None, str]:
        """What is said before an answer, where the cell says it, and the answer."""
        value = self._value(role)
        before: list[Message] | None = None
        if isinstance(value, (list, Mapping)):
            messages = self._messages(value, role) if value else []
            if not messages or messages[-1]["role"] != "assistant":
                raise self._error(f"{role} has no assistant turn at the end", "End it with the answer.")
            *before, last = messages
            if more := sorted(key for key in last if key not in ("role", "content") and last[key]):
                raise self._error(f"{role} ends with a turn that has {', '.join(more)}", "Answers are texts.")
            value = last["content"]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise self._error(f"{role} is empty", "Remove the row.")
        if not isinstance(value, str):
            raise self._error(f"{role} is {type(value).__name__}, not text or messages", "Correct the row.")
        return before, value

    def _prompt(self) -> list[Message] | None:
        value = self._value("prompt")
        more = self._beside("instruction", "input")
        if value is None and more is None:
            return None
        if isinstance(value, (list, Mapping)):
            return self._messages(value, "prompt")
        if not isinstance(value, str | None):
            what = type(value).__name__
            raise self._error(f"prompt is {what}, not text or messages", "Correct the row.")
        value = beside(value, more, self.records.where(self.row))
        return [{"role": "user", "content": value}] if value and value.strip() else None

    def _beside(self, prompt: str, column: str) -> Any:
        """What Alpaca's rows have beside the prompt in a column of its own."""
        if self.columns.get("prompt", "").strip().lower() != prompt:
            return None
        return self.row.values.get(self.records.find((column,)) or "")

    def _shared(self, chosen: str, rejected: str) -> tuple[list[Message], str, str]:
        """What two texts begin with, up to a space, as the prompt, and what comes after it."""
        alike = takewhile(lambda letters: letters[0] == letters[1], zip(chosen, rejected, strict=False))
        length = max((at for at, (letter, _) in enumerate(alike, start=1) if letter.isspace()), default=0)
        if not chosen[:length].strip():
            raise self._error(
                "there is no prompt, and the answers do not begin alike",
                "Name the column with prompt_column.",
            )
        after = chosen[length:].strip(), rejected[length:].strip()
        if not all(after):
            raise self._error("an answer is empty: one text begins with the other", "Remove the row.")
        return [{"role": "user", "content": chosen[:length].strip()}], *after

    def _messages(self, value: Any, role: str) -> list[Message]:
        return as_messages(value, f"{self.records.where(self.row)}: {role}", "user")

    def _checked(self, prompt: list[Message]) -> list[Message]:
        if prompt[-1]["role"] == "assistant":
            raise self._error("the prompt ends with the assistant's turn", "End it with what is answered.")
        system = self.row.values.get(self.records.find(SYSTEMS) or "")
        if not isinstance(system, str | None):
            raise self._error(f"system is {type(system).__name__}, not text", "Correct the row.")
        return with_system(prompt, system)

    def _judgement(self) -> bool:
        value = self._value("label")
        if isinstance(value, bool):
            return value
        if isinstance(value, (int, float)) and value in (-1, 0, 1):
            return value > 0
        if isinstance(value, str) and value.strip().lower() in _JUDGEMENTS:
            return _JUDGEMENTS[value.strip().lower()]
        raise self._error(
            f"the label {value!r} does not judge", "Write true for good answers, false for bad ones."
        )

    def _value(self, role: str) -> Any:
        """What the cell holds; messages also where it is their JSON."""
        value = self.row.values.get(self.columns[role]) if role in self.columns else None
        messages = json_of_messages(value) if isinstance(value, str) else None
        return value if messages is None else messages

    def _error(self, what: str, hint: str) -> InvalidData:
        return InvalidData(f"{self.records.where(self.row)}: {what}", hint=hint)


def _said(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Who says what, without the space around it."""
    return [(message["role"], message["content"].strip()) for message in messages]
