"""Annotated text in records: words with a label each, or a text with entity spans, to tokens and BIO labels.

    {"tokens": ["Ada", "slept"], "labels": ["B-PER", "O"]}
    {"text": "Ada slept", "entities": [{"start": 0, "end": 3, "label": "PER"}]}

An entity may be a list, [0, 3, "PER"], or have its parts as doccano, Label Studio and transformers call them; one
that says its own text must stand there. Of Prodigy's rows those that were not accepted are left out, and counted in a note.
Texts are cut into words as in serving (adapters/words). Does not check the label schemes of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.adapters.words import split_words
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import grouped
from adapthub.recipes.data.label_studio import tasks_as_rows
from adapthub.recipes.data.labelled_texts import TEXT_COLUMNS
from adapthub.recipes.data.records import Record, Records, repeated_ids
from adapthub.recipes.data.schemes import from_spans
from adapthub.recipes.data.tables import read_records

_Convert = Callable[[Records, Record, Mapping[str, str]], dict[str, list[str]]]

_TOKENS = ("tokens", "words")
_LABELS = ("labels", "ner_tags", "tags", "ner")
_SPANS = ("entities", "spans")
_ALSO_SPANS = ("label", "labels")  # of doccano and Label Studio, where what they hold are spans
_STARTS, _ENDS = ("start", "start_offset"), ("end", "end_offset")
_TYPES = ("label", "labels", "entity_group", "type")
_ANSWER, _NOT_ACCEPTED = ("answer",), ("reject", "ignore")  # Prodigy's
_FORMS = (
    'Give tokens and labels, or a text and its entities: {"text": "Ada slept", "entities": [[0, 3, "PER"]]};'
    " of Label Studio export JSON or JSON-MIN."
)
_LAST_OF_TWO_BYTES = 0xFFFF
_AS_OF_TOKENS = re.compile(r"O|[BI]-.+", re.DOTALL)  # every scheme has these; E-MAIL and U-BOAT may be types


def read_annotations(
    source: Any,
    *,
    token_column: str | int | None,
    label_column: str | int | None,
    encoding: str,
    group_column: str | None = None,
) -> Dataset:
    """Examples with fields `tokens` and `labels`. Raises InvalidData with file and line."""
    records = read_records(source, encoding=encoding)
    tokens, labels = (None if given is None else str(given) for given in (token_column, label_column))
    records, labels, of_tasks = tasks_as_rows(records, "labels", labels)
    columns, convert = _columns(records, tokens, labels)
    records, notes = _accepted(records) if convert is _from_entities else (records, ())
    examples = tuple(
        Example(convert(records, row, columns), records.path, row.line, records.unit) for row in records.rows
    )
    read = Dataset(examples, records.path, columns, notes=(*of_tasks, *notes, *repeated_ids(records)))
    return grouped(read, records, group_column)


def _columns(records: Records, tokens: str | None, labels: str | None) -> tuple[dict[str, str], _Convert]:
    """Which column is what, and what makes an example of a row. Raises InvalidData."""
    words = records.find(_TOKENS)
    text = records.find(TEXT_COLUMNS if words is None else TEXT_COLUMNS[:1])
    if labels is not None:
        records.column("label", labels, ())
    if tokens is None and text is not None:
        also = labels or (None if words else records.find(_ALSO_SPANS))
        spans = also if _holds_spans(records, also) else None
        if labels is None:
            spans = records.find(_SPANS) or spans
        if spans is not None:
            return {"text": text, "labels": spans}, _from_entities
    if tokens is None and words is None:
        raise InvalidData(
            f"{records.path}: no token column (looked for {', '.join(_TOKENS)}); the columns are"
            f" {', '.join(map(repr, records.columns))}",
            hint=f"Set token_column. {_FORMS}",
        )
    columns = {
        "tokens": records.column("token", tokens, _TOKENS),
        "labels": records.column("label", labels, _LABELS),
    }
    return columns, _from_words


def _holds_spans(records: Records, column: str | None) -> bool:
    """Whether the first row that has something in the column has a list of lists or of objects there; if none has, too."""
    if column is None:
        return False
    first: Any = next((value for row in records.rows if (value := row.values.get(column))), [])
    return isinstance(first, list) and all(isinstance(part, (Mapping, list, tuple)) for part in first)


def _accepted(records: Records) -> tuple[Records, tuple[str, ...]]:
    """Without the rows that Prodigy's user did not accept, and a note of them. Raises InvalidData where none is left of a
    whole source: other parts may have some."""
    column = records.find(_ANSWER)
    if column is None:
        return records, ()
    left = [row for row in records.rows if row.values.get(column) in _NOT_ACCEPTED]
    rows = [row for row in records.rows if row.values.get(column) not in _NOT_ACCEPTED]
    if records.whole and not rows:
        raise InvalidData(f"{records.path}: no row was accepted, by its {column!r}", hint="Accept some.")
    notes = (
        f"{len(left)} rows were rejected or ignored, by their {column!r}, and are left out, the first at"
        f" {records.where(first)}"
        for first in left[:1]
    )
    return replace(records, rows=rows), tuple(notes)


def _from_words(records: Records, row: Record, columns: Mapping[str, str]) -> dict[str, list[str]]:
    tokens, labels = (_strings(records, row, columns[field]) for field in ("tokens", "labels"))
    where = records.where(row)
    if len(tokens) != len(labels):
        raise InvalidData(
            f"{where}: {len(tokens)} tokens and {len(labels)} labels", hint="Give every token one label."
        )
    if not tokens:
        raise InvalidData(f"{where}: no tokens", hint="Remove the row.")
    if not all(tokens):
        raise InvalidData(f"{where}: token {tokens.index('') + 1} is empty", hint="Remove it and its label.")
    return {"tokens": tokens, "labels": labels}


def _from_entities(records: Records, row: Record, columns: Mapping[str, str]) -> dict[str, list[str]]:
    where = records.where(row)
    text, entities = row.values.get(columns["text"]), row.values.get(columns["labels"])
    if not isinstance(text, str) or not split_words(text):
        raise InvalidData(f"{where}: the text is empty or not a string", hint="Remove the row.")
    if not isinstance(entities, list):
        raise InvalidData(f"{where}: {columns['labels']!r} is not a list", hint="No entity is an empty list.")
    words = split_words(text)
    spans = [_span(entity, text, where) for entity in entities]
    try:
        labels = from_spans(words, spans)
    except ValueError as error:
        raise InvalidData(
            f"{where}: {error}",
            hint=f"Entities hold whole words, and each word is in one alone. {_counted(text)}",
        ) from error
    return {"tokens": [text[start:end] for start, end in words], "labels": labels}


def _span(entity: Any, text: str, where: str) -> tuple[int, int, str]:
    """(start, end, type) of `{"start":, "end":, "label":}` or `[start, end, label]`."""
    said = None
    if isinstance(entity, Mapping):
        parts: Sequence[Any] = [_part(entity, names) for names in (_STARTS, _ENDS, _TYPES)]
        said = entity.get("text")
    else:
        parts = entity if isinstance(entity, (list, tuple)) else []
    match parts:
        case [int(start), int(end), str(label)] | [int(start), int(end), [str(label)]] if (
            0 <= start < end <= len(text) and label.strip()
        ):
            if isinstance(said, str) and _same(said) != _same(text[start:end]):
                raise InvalidData(
                    f"{where}: the {label.strip()} at {start}-{end} says its text is {said!r:.60}, and"
                    f" {text[start:end]!r:.60} stands there",
                    hint=_counted(text),
                )
            return start, end, _type(label.strip(), where)
    raise InvalidData(
        f"{where}: not an entity of this text: {entity!r}",
        hint=f'Write {{"start": 0, "end": 3, "label": "PER"}}. {_counted(text)}',
    )


def _type(label: str, where: str) -> str:
    """An entity's type. Raises InvalidData for a label of tokens, which would get a prefix before its own."""
    if _AS_OF_TOKENS.fullmatch(label):
        raise InvalidData(
            f"{where}: {label!r} is a label of tokens, and no entity's type",
            hint="Leave entities that are O out."
            if label == "O"
            else f"Write {label[2:]}: places say the rest.",
        )
    return label


def _part(entity: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((entity[name] for name in names if entity.get(name) is not None), None)


def _same(said: str) -> str:
    """Label Studio writes the ends of lines as the two signs that JSON has for them."""
    return " ".join(said.replace("\\n", " ").split())


def _counted(text: str) -> str:
    """How spans count, for a hint."""
    many = (
        ", an emoji as one (two in UTF-16, as JavaScript counts)"
        if max(map(ord, text)) > _LAST_OF_TWO_BYTES
        else ""
    )
    return f"Spans count characters from 0{many}, end exclusive."


def _strings(records: Records, row: Record, column: str) -> list[str]:
    values = row.values.get(column)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidData(
            f"{records.where(row)}: {column!r} is not a list of strings",
            hint="Labels are names such as B-PER, not numbers.",
        )
    return [value.strip() for value in values]
