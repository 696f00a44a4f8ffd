"""Label Studio's full JSON export, tasks with their annotations, as rows such as its JSON-MIN has.

    [{"data": {"text": "Ada slept"}, "annotations": [{"was_cancelled": false, "result": [
        {"from_name": "label", "value": {"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}}]}]}]

Of a task's annotations the first that was not cancelled counts; a task without one is left out; notes say so. Predictions
and drafts are not read. Does not check spans or labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.records import Record, Records, columns_of

Kind = Literal["labels", "choices"]
"""What annotations are read: marked spans of a text, or choices for all of it."""

_DATA, _ANNOTATIONS = "data", "annotations"


def tasks_as_rows(
    records: Records, kind: Kind, column: str | None
) -> tuple[Records, str | None, tuple[str, ...]]:
    """Rows of a task's data, with a column for each control by its `from_name`: lists of spans, or a choice, which is a list
    where some row has several. Then the column of labels, `column` or that of the only control, and notes.

    Records that are no tasks are given back as they are. Raises InvalidData, also where no task is annotated so.
    """
    if not holds_tasks(records):
        return records, column, ()
    tasks = [(row, _data(records, row), _valid(records, row)) for row in records.rows]
    left = [row for row, _, annotations in tasks if not annotations]
    several = [row for row, _, annotations in tasks if len(annotations) > 1]
    found = [_results(annotations[0], kind) for _, _, annotations in tasks if annotations]
    names = [*dict.fromkeys(_name(result) for results in found for result in results)]
    if not names:
        raise InvalidData(
            f"{records.path}: no annotation of these tasks has {kind}",
            hint="ner reads spans that are marked in plain text, classify and sentiment choices for a whole text.",
        )
    if column is None:
        column = _only(records, names)
    marked = _columns_of(found, names, kind)
    kept = (row for row, _, annotations in tasks if annotations)
    rows = [
        replace(row, values={**_data(records, row), **values})
        for row, values in zip(kept, marked, strict=True)
    ]
    columns = columns_of([*(data for _, data, _ in tasks), dict.fromkeys(names)])
    return replace(records, rows=rows, columns=columns), column, tuple(_notes(records, left, several))


def holds_tasks(records: Records) -> bool:
    """Whether some are tasks. Such a source is read whole: its tasks together tell which controls and lists there are."""
    return any(
        isinstance(row.values.get(_DATA), Mapping) and _ANNOTATIONS in row.values for row in records.rows
    )


def _data(records: Records, row: Record) -> dict[str, Any]:
    """What was annotated, and the task's id."""
    data = row.values.get(_DATA)
    if not isinstance(data, Mapping):
        raise _no_task(records, row)
    return {**{name: row.values[name] for name in ("id",) if name in row.values}, **data}


def _valid(records: Records, row: Record) -> list[Mapping[str, Any]]:
    """The annotations that were not cancelled."""
    annotations = row.values.get(_ANNOTATIONS)
    if not isinstance(annotations, list):
        raise _no_task(records, row)
    for annotation in annotations:
        results = annotation.get("result") if isinstance(annotation, Mapping) else None
        if not isinstance(results, list) or not all(isinstance(result, Mapping) for result in results):
            raise _no_task(records, row)
    return [annotation for annotation in annotations if not annotation.get("was_cancelled")]


def _no_task(records: Records, row: Record) -> InvalidData:
    return InvalidData(
        f"{records.where(row)}: no task of Label Studio's, as other rows are",
        hint='Tasks are {"data": {"text": ...}, "annotations": [{"result": [...]}]}; export JSON or JSON-MIN.',
    )


def _results(annotation: Mapping[str, Any], kind: Kind) -> list[Mapping[str, Any]]:
    """Those of one kind; choices for a part of the text are none for all of it."""
    results: list[Mapping[str, Any]] = annotation["result"]
    values = ((result, result.get("value")) for result in results)
    return [
        result
        for result, value in values
        if isinstance(value, Mapping)
        and isinstance(value.get(kind), list)
        and (kind == "labels" or "start" not in value)
    ]


def _name(result: Mapping[str, Any]) -> str:
    return str(result.get("from_name", "label"))


def _only(records: Records, names: Sequence[str]) -> str:
    if len(names) > 1:
        raise InvalidData(
            f"{records.path}: annotations are of several controls: {', '.join(map(repr, names))}",
            hint="Set label_column to one of them.",
        )
    return names[0]


def _columns_of(
    found: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str], kind: Kind
) -> list[dict[str, Any]]:
    """For each annotation what it has of each control."""
    rows: list[dict[str, Any]] = []
    for results in found:
        row: dict[str, list[Any]] = {name: [] for name in names}
        for result in results:
            value = result["value"]
            row[_name(result)] += [value] if kind == "labels" else value[kind]
        rows.append({**row})
    for name in names if kind == "choices" else ():
        if all(len(row[name]) <= 1 for row in rows):
            for only in rows:
                only[name] = next(iter(only[name]), None)
    return rows


def _notes(records: Records, left: Sequence[Record], several: Sequence[Record]) -> Iterator[str]:
    if left:
        yield (
            f"{len(left)} tasks have no annotation, or cancelled ones alone, and are left out, the first at"
            f" {records.where(left[0])}"
        )
    if several:
        yield (
            f"{len(several)} tasks have several annotations, of which the first that was not cancelled is read, the first"
            f" at {records.where(several[0])}"
        )
