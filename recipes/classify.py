"""Classes of a text, one or any number at once, in any language that the base reads: CSV, JSONL or Parquet in.

Does not train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.data.groups import GROUP_COLUMN, grouped
from adapthub.recipes.data.label_studio import tasks_as_rows
from adapthub.recipes.data.labelled_texts import LABELS_COLUMNS, TEXT_COLUMNS, read_several
from adapthub.recipes.data.tables import read_records
from adapthub.recipes.recipe import Defaults
from adapthub.recipes.text_classes import WARMUP_REASON, TextClasses

_REASONS = {
    "warmup": WARMUP_REASON,
    "learning_rate": "macro F1 0.885 on entity-kinds (MiniLM, 300 steps); 0.802 at 3e-4, and at 3e-3 the run collapsed",
    "head_learning_rate": "a head starts from nothing; one as slow as the adapter came to 0.851 in place of 0.885",
    "batch_size": "LoRA learns less from large batches than full fine-tuning does: 32 or fewer (LoRA Without Regret)",
}


@dataclass(frozen=True)
class Classify(TextClasses):
    """The recipe `classify`. Examples hold `text`, and `label` (str) or `labels` (a sorted list of str)."""

    name: str = "classify"
    description: str = "a topic, or any number of labels at once, for a text"
    metrics: tuple[str, ...] = ("macro_f1", "accuracy")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "text_column": f"the column of texts (default: the first of {', '.join(TEXT_COLUMNS)})",
            "label_column": f"the column of labels (default: the first of {', '.join(LABELS_COLUMNS)})",
            "label_separator": "several labels at once: what parts them in a cell, such as ;",
            "label_columns": "several labels at once: the columns of 0 and 1, one a label",
            "group_column": GROUP_COLUMN,
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        """LoRA's on validation data of entity-kinds (MiniLM, 300 steps of 32): macro F1 0.885 at 1e-3, 0.802 at 3e-4, and at
        3e-3 the run collapsed (0.485). A head as slow as the adapter gives 0.851, a faster one (2e-2) 0.887. Prefix tuning's
        are sentiment's, not tried here.
        """
        if method == "prefix":
            return Defaults(1e-2, 1e-2, epochs=5, batch_size=32, max_length=256)
        return Defaults(1e-3, 5e-3, epochs=3, batch_size=32, max_length=256, warmup=None, reasons=_REASONS)

    def read(
        self,
        source: str | Path | Any,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        label_separator: str | None = None,
        label_columns: str | Sequence[str] | None = None,
        group_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read. Labels are strings, whole numbers or booleans, and kept as stripped text."""
        records = read_records(source, encoding=encoding, delimiter=delimiter)
        records, label_column, notes = tasks_as_rows(records, "choices", label_column)
        read = read_several(records, text_column, label_column, label_separator, label_columns)
        return grouped(replace(read, notes=(*notes, *read.notes)), records, group_column)
