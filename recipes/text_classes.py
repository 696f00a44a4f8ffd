"""Classes of whole texts: one of several, or any number at once. What `sentiment` and `classify` have in common.

Several at once are trained with a sigmoid a label (transformers' problem_type multi_label_classification), and a label holds
above THRESHOLD; both are recorded in the manifest, by which serving follows. Does not read files, does not train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.adapters.errors import InvalidData
from adapthub.adapters.multi_label import MULTI_LABEL, THRESHOLD
from adapthub.recipes.batches import check_length, text_collator
from adapthub.recipes.data.classes import in_order
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.metrics import Statistics, class_statistics, label_statistics
from adapthub.recipes.recipe import Collator, Encoded, Preview
from adapthub.recipes.text_rows import text_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

WARMUP_REASON = (
    "6 %, of a short run 20 steps or a fifth: with 4 of 80 a seed ended with one label for all (e5-small)"
)
_MANY_LABELS = 20


@dataclass(frozen=True)
class TextClasses:
    """All of a recipe over texts and their classes but its name, what it reads and its defaults.

    Examples hold `text`, and `label` (str) or `labels` (a sorted list of str): every row of a dataset alike.
    """

    task: str = "text-classification"
    formats: tuple[str, ...] = ("CSV", "TSV", "JSONL", "Parquet")

    def labels_of(self, example: Example) -> frozenset[str]:
        several = example.fields.get("labels")
        return frozenset((example.fields["label"],) if several is None else several)

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """Sorted: by value where all are whole numbers, else as text."""
        labels = {label for example in train for label in self.labels_of(example)}
        column = train.columns["label"]
        if not labels:
            raise _none_at_all(train)
        if len(labels) < 2:
            every = "every row that has a label" if _several(train) else "every row"
            raise InvalidData(
                f"{train.source}: {every} has the label {next(iter(labels))!r} in column {column!r}",
                hint="A classifier needs rows of at least two labels.",
            )
        if len(labels) > max(_MANY_LABELS, len(train) // 2):
            raise InvalidData(
                f"{train.source}: column {column!r} has {len(labels)} different values in {len(train)} rows",
                hint="It does not look like labels; set label_column.",
            )
        return in_order(labels)

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Labels unseen in training, and a dataset without any."""
        known = frozenset(labels)
        if not any(map(self.labels_of, dataset)):
            raise _none_at_all(dataset)
        for example in dataset:
            if unknown := sorted(self.labels_of(example) - known):
                raise InvalidData(
                    f"{example.source}: label {unknown[0]!r} is not in the training data",
                    hint=f"Known labels: {', '.join(labels)}.",
                )

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_length": check_length(tokenizer, max_length)}
        return (
            settings | {"problem_type": MULTI_LABEL, "threshold": THRESHOLD} if _several(train) else settings
        )

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        """Rows with `labels`: an index, or where several may hold a float a label, 1.0 or 0.0."""
        several = settings.get("problem_type") == MULTI_LABEL
        targets = _targets(dataset, labels) if several else self._indices(dataset, labels)
        texts = [example.fields["text"] for example in dataset]
        rows, cut = text_rows(tokenizer, texts, settings["max_length"])
        for row, target in zip(rows, targets, strict=True):
            row["labels"] = target
        return Encoded(rows, supervised=len(rows), targets=len(rows), truncated=sum(cut))

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
        gold = [row["labels"] for row in encoded.rows]
        if isinstance(gold[0], list):
            # The sigmoid of 0 is THRESHOLD.
            return label_statistics(np.array(gold) > 0, np.stack(outputs) > 0, labels)
        return class_statistics(gold, [int(np.argmax(logits)) for logits in outputs], labels)

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """A row for each sub-token; the labels, which are the whole text's, stand on the first."""
        example, row = dataset[index], encoded.rows[index]
        held = ", ".join(label for label in labels if label in self.labels_of(example)) or "(none)"
        ids = row["input_ids"]
        label = (held if at == 0 else "" for at in range(len(ids)))
        return Preview.of_tokens(tokenizer, ids, example.source, example.fields["text"], label=label)

    def _indices(self, dataset: Dataset, labels: Sequence[str]) -> list[int]:
        ids = {label: index for index, label in enumerate(labels)}
        for example in dataset:
            if "labels" in example.fields:
                raise InvalidData(
                    f"{example.source}: a list of labels, where training had one label a text",
                    hint="Give every row one label.",
                )
        return [ids[example.fields["label"]] for example in dataset]


def _targets(dataset: Dataset, labels: Sequence[str]) -> list[list[float]]:
    """One 1.0 or 0.0 a label. A dataset of one label a text serves too."""
    held = [example.fields.get("labels") or [example.fields.get("label")] for example in dataset]
    return [[float(label in some) for label in labels] for some in held]


def _none_at_all(dataset: Dataset) -> InvalidData:
    return InvalidData(
        f"{dataset.source}: no row has a label in {dataset.columns['label']!r}",
        hint="Check label_column, label_separator or label_columns.",
    )


def _several(dataset: Dataset) -> bool:
    return "labels" in dataset[0].fields
