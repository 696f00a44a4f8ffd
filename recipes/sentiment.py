"""Sentiment, and any other choice of one label for a text: CSV, JSONL or Parquet in; accuracy and macro F1.

Does not train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.batches import check_length, text_collator
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.records import Record, Records
from adapthub.recipes.data.tables import read_records
from adapthub.recipes.metrics import Statistics, class_statistics
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

_TEXT = ("text", "sentence", "review", "content", "document", "comment")
_LABEL = ("label", "sentiment", "class", "category", "target", "polarity")
_MANY_LABELS = 20


@dataclass(frozen=True)
class Sentiment:
    """The recipe `sentiment`. Examples hold `text` and `label`, both str."""

    name: str = "sentiment"
    task: str = "text-classification"
    description: str = "one label for a text: positive or negative, or whatever classes your labels name"
    formats: tuple[str, ...] = ("CSV", "TSV", "JSONL", "Parquet")
    metrics: tuple[str, ...] = ("macro_f1", "accuracy")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "text_column": f"the column of texts (default: the first of {', '.join(_TEXT)})",
            "label_column": f"the column of labels (default: the first of {', '.join(_LABEL)})",
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        if method == "prefix":
            return Defaults(1e-2, 1e-2, epochs=5, batch_size=32, max_length=256)
        return Defaults(1e-3, 5e-3, epochs=3, batch_size=32, max_length=256)

    def read(
        self,
        source: str | Path | Any,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read. Labels are strings, whole numbers or booleans, and kept as stripped text."""
        records = read_records(source, encoding=encoding, delimiter=delimiter)
        columns = {
            "text": records.column("text", text_column, _TEXT),
            "label": records.column("label", label_column, _LABEL),
        }
        examples = tuple(
            Example(
                {
                    "text": _text(records, row, columns["text"]),
                    "label": _label(records, row, columns["label"]),
                },
                records.path,
                row.line,
                records.unit,
            )
            for row in records.rows
        )
        return Dataset(examples, records.path, columns)

    def labels_of(self, example: Example) -> frozenset[str]:
        return frozenset((example.fields["label"],))

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """Sorted: by value where all are whole numbers, else as text."""
        labels = {example.fields["label"] for example in train}
        column = train.columns["label"]
        if len(labels) < 2:
            raise InvalidData(
                f"{train.source}: every row has the label {labels.pop()!r} in column {column!r}",
                hint="A classifier needs rows of at least two labels.",
            )
        if len(labels) > max(_MANY_LABELS, len(train) // 2):
            raise InvalidData(
                f"{train.source}: column {column!r} has {len(labels)} different values in {len(train)} rows",
                hint="It does not look like labels; set label_column.",
            )
        numeric = all(label.removeprefix("-").isdecimal() for label in labels)
        return tuple(sorted(labels, key=int if numeric else None))

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Labels unseen in training."""
        known = frozenset(labels)
        for example in dataset:
            if example.fields["label"] not in known:
                raise InvalidData(
                    f"{example.source}: label {example.fields['label']!r} is not in the training data",
                    hint=f"Known labels: {', '.join(labels)}.",
                )

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        return {"max_length": check_length(tokenizer, max_length)}

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        ids = {label: index for index, label in enumerate(labels)}
        max_length = settings["max_length"]
        texts = [example.fields["text"] for example in dataset]
        batch = tokenizer(texts, truncation=True, max_length=max_length, return_attention_mask=False)
        rows = [
            {
                **{name: values[index] for name, values in batch.items()},
                "labels": ids[example.fields["label"]],
            }
            for index, example in enumerate(dataset)
        ]
        room = max_length - tokenizer.num_special_tokens_to_add()
        truncated = sum(
            len(row["input_ids"]) == max_length and len(tokenizer.tokenize(text)) > room
            for row, text in zip(rows, texts, strict=True)
        )
        return Encoded(rows, supervised=len(rows), targets=len(rows), truncated=truncated)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return text_collator(tokenizer)

    def measure(
        self,
        outputs: Sequence[NDArray[Any]],
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
    ) -> Statistics:
        """outputs[r]: [labels]. Headline metrics, and f1/LABEL."""
        predicted = [int(np.argmax(logits)) for logits in outputs]
        return class_statistics([row["labels"] for row in encoded.rows], predicted, labels)

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """A row for each sub-token; the label, which is the whole text's, stands on the first."""
        example, row = dataset[index], encoded.rows[index]
        surfaces = tokenizer.convert_ids_to_tokens(row["input_ids"])
        cells = [
            (surface, labels[row["labels"]] if position == 0 else "")
            for position, surface in enumerate(surfaces)
        ]
        return Preview(example.source, example.fields["text"], ("sub-token", "label"), tuple(cells))


def _text(records: Records, row: Record, column: str) -> str:
    text = row.values.get(column)
    if not isinstance(text, str) or not text.strip():
        what = "empty" if text is None or isinstance(text, str) else f"{type(text).__name__}, not text"
        raise InvalidData(
            f"{records.where(row)}: the text in column {column!r} is {what}", hint="Remove the row."
        )
    return text


def _label(records: Records, row: Record, column: str) -> str:
    label = row.values.get(column)
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # an integer column with gaps comes out of Parquet as floats
    text = str(label).strip() if isinstance(label, (str, int)) else ""
    if not text:
        shown = "empty" if label is None or isinstance(label, str) else repr(label)
        raise InvalidData(
            f"{records.where(row)}: the label in column {column!r} is {shown}",
            hint="Give every row one label, a name or a whole number.",
        )
    return text
