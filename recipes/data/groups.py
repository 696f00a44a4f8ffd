"""Rows that belong together, such as one patient's, one document's or one speaker's, by a column that says so.

What a row has there becomes its GROUP, which no model sees: no split that is made parts equal ones, and splits that are
given are told what they share. Does not split.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from adapthub.recipes.data.dataset import GROUP, Dataset, Example
from adapthub.recipes.data.records import Records

GROUP_COLUMN = "a column, as of documents or speakers, whose equal rows no split that is made parts"
"""What the option group_column is, for people."""


def group_of(value: Any) -> str | None:
    """What a cell says; None for an empty one, whose row stands alone."""
    if isinstance(value, float):  # as whole numbers with gaps come out of tables
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    return None if value is None else str(value).strip() or None


def grouped(dataset: Dataset, records: Records, column: str | None) -> Dataset:
    """`dataset`, which was read of `records`, with what each row has in `column` as GROUP; as it is where that is None.
    Raises InvalidData where there is no such column."""
    if column is None:
        return dataset
    column = records.column(GROUP, column, ())
    groups = {row.line: group_of(row.values.get(column)) for row in records.rows}

    def with_group(example: Example) -> Example:
        group = groups[example.line]
        return example if group is None else replace(example, fields={**example.fields, GROUP: group})

    return replace(
        dataset, examples=tuple(map(with_group, dataset)), columns={**dataset.columns, GROUP: column}
    )
