"""Sentiment, and any other choice of one label for a text: CSV, JSONL or Parquet in; accuracy and macro F1.

Does not train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.data.groups import GROUP_COLUMN, grouped
from adapthub.recipes.data.label_studio import tasks_as_rows
from adapthub.recipes.data.labelled_texts import LABEL_COLUMNS, TEXT_COLUMNS, read_single
from adapthub.recipes.data.tables import read_records
from adapthub.recipes.recipe import Defaults
from adapthub.recipes.text_classes import WARMUP_REASON, TextClasses

_REASONS = {
    "warmup": WARMUP_REASON,
    "learning_rate": "the steadiest of 1e-3 and 2e-3 over three seeds of movie reviews (MiniLM, 789 steps)",
    "head_learning_rate": "a head starts from nothing, and learns faster than the adapter does",
    "batch_size": "LoRA learns less from large batches than full fine-tuning does: 32 or fewer (LoRA Without Regret)",
}


@dataclass(frozen=True)
class Sentiment(TextClasses):
    """The recipe `sentiment`. Examples hold `text` and `label`, both str."""

    name: str = "sentiment"
    description: str = "one label for a text: positive or negative, or whatever classes your labels name"
    metrics: tuple[str, ...] = ("macro_f1", "accuracy")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "text_column": f"the column of texts (default: the first of {', '.join(TEXT_COLUMNS)})",
            "label_column": f"the column of labels (default: the first of {', '.join(LABEL_COLUMNS)})",
            "group_column": GROUP_COLUMN,
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        if method == "prefix":
            return Defaults(1e-2, 1e-2, epochs=5, batch_size=32, max_length=256)
        return Defaults(1e-3, 5e-3, epochs=3, batch_size=32, max_length=256, warmup=None, reasons=_REASONS)

    def read(
        self,
        source: str | Path | Any,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read. Labels are strings, whole numbers or booleans, and kept as stripped text."""
        records = read_records(source, encoding=encoding, delimiter=delimiter)
        records, label_column, notes = tasks_as_rows(records, "choices", label_column)
        read = read_single(records, text_column, label_column)
        return grouped(replace(read, notes=(*notes, *read.notes)), records, group_column)
