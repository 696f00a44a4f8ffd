"""Annotated text in records: words with a label each, or a text with entity spans, to tokens and BIO labels.

    {"tokens": ["Ada", "slept"], "labels": ["B-PER", "O"]}
    {"text": "Ada slept", "entities": [{"start": 0, "end": 3, "label": "PER"}]}

Texts are cut into words as in serving (adapters/words). Does not check label schemes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.adapters.words import split_words
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import grouped
from adapthub.recipes.data.records import Record, Records, repeated_ids
from adapthub.recipes.data.schemes import from_spans
from adapthub.recipes.data.tables import read_records

_TOKENS = ("tokens", "words")
_LABELS = ("labels", "ner_tags", "tags", "ner")
_SPANS = ("entities", "spans")


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
    given = None if token_column is None else str(token_column)
    if given is None and "text" in records.columns and any(name in records.columns for name in _SPANS):
        columns = {"text": "text", "labels": records.column("entities", None, _SPANS)}
        convert = _from_entities
    else:
        columns = {
            "tokens": records.column("token", given, _TOKENS),
            "labels": records.column("label", None if label_column is None else str(label_column), _LABELS),
        }
        convert = _from_words
    examples = tuple(
        Example(convert(records, row, columns), records.path, row.line, records.unit) for row in records.rows
    )
    read = Dataset(examples, records.path, columns, notes=tuple(repeated_ids(records)))
    return grouped(read, records, group_column)


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
    spans = [_span(entity, len(text), where) for entity in entities]
    try:
        labels = from_spans(words, spans)
    except ValueError as error:
        raise InvalidData(
            f"{where}: {error}", hint="Spans count characters from 0, end exclusive."
        ) from error
    return {"tokens": [text[start:end] for start, end in words], "labels": labels}


def _span(entity: Any, length: int, where: str) -> tuple[int, int, str]:
    """(start, end, type) of `{"start":, "end":, "label":}` or `[start, end, label]`."""
    if isinstance(entity, Mapping):
        parts: Sequence[Any] = [entity.get(name) for name in ("start", "end", "label")]
    else:
        parts = entity if isinstance(entity, (list, tuple)) else []
    match parts:
        case [int(start), int(end), str(label)] if 0 <= start < end <= length and label.strip():
            return start, end, label.strip()
    raise InvalidData(
        f"{where}: not an entity of this text: {entity!r}",
        hint='Write {"start": 0, "end": 3, "label": "PER"}, in characters, end exclusive.',
    )


def _strings(records: Records, row: Record, column: str) -> list[str]:
    values = row.values.get(column)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidData(
            f"{records.where(row)}: {column!r} is not a list of strings",
            hint="Labels are names such as B-PER, not numbers.",
        )
    return [value.strip() for value in values]
