"""Pictures into classes: `image`, and `medical-image` for rare findings. Folders of class folders, tables, Parquet in.

`image` is measured by macro F1 and accuracy. `medical-image` weighs the loss by class, so that a rare finding counts as much
as a common one, never turns left and right around, and is measured by what such work asks of a classifier. Does not train.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION
from adapthub.recipes.data.classes import ordered_classes
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.pictures import GROUPS, IMAGE, LABEL, PictureDataset, read_pictures
from adapthub.recipes.medical_metrics import MedicalStatistics, medical_statistics
from adapthub.recipes.metrics import Statistics, class_statistics
from adapthub.recipes.picture_rows import Augmentation, PictureRows, collate_pictures
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_CROP = 0.6
_REASONS = {
    "learning_rate": "between PEFT's two examples of pictures, 2e-4 on convolutions and 5e-3 on attention",
    "head_learning_rate": "a head starts from nothing, and learns faster than the adapter does",
}


@dataclass(frozen=True)
class _Pictures(ABC):
    """What the two recipes share. Examples hold `image`, the digest of its bytes, and `label`, both str."""

    name: str
    description: str
    metrics: tuple[str, ...]
    task: str = IMAGE_CLASSIFICATION
    formats: tuple[str, ...] = ("a folder of class folders", "CSV", "TSV", "JSONL", "Parquet")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "image_column": f"the column of paths or bytes (default: the first of {', '.join(IMAGE)})",
            "label_column": f"the column of labels (default: the first of {', '.join(LABEL)})",
            "group_column": "a column whose equal rows no split that is made parts (default: the first of"
            f" {', '.join(GROUPS)}, if there; else the PatientID of DICOM files)",
            "crop": "training: the smallest share of a picture that a random crop keeps, from 0 to 1; 1 for no crops",
            "flip": "training: whether left and right may be exchanged, true or false",
        }

    def defaults(self, method: str) -> Defaults:
        return Defaults(2e-3, 5e-3, epochs=10, batch_size=32, max_length=None, reasons=_REASONS)

    def read(
        self,
        source: str | Path | Any,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        crop: float | None = None,
        flip: bool | None = None,
    ) -> Dataset:
        """See Recipe.read. Labels are names of folders, or strings, whole numbers or booleans, kept as stripped text."""
        if crop is not None and not (isinstance(crop, (int, float)) and 0 < crop <= 1):
            raise InvalidSettings(f"crop is a share above 0 and at most 1; {crop!r} is not")
        if flip is not None and not isinstance(flip, bool):
            raise InvalidSettings(f"flip is true or false; {flip!r} is not")
        settings = {name: value for name, value in (("crop", crop), ("flip", flip)) if value is not None}
        return read_pictures(
            source,
            image_column=image_column,
            label_column=label_column,
            group_column=group_column,
            settings=settings,
        )

    def labels_of(self, example: Example) -> frozenset[str]:
        return frozenset((example.fields["label"],))

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """See classes.ordered_classes."""
        found = (example.fields["label"] for example in train)
        return ordered_classes(found, train.source, train.columns["label"])

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Labels unseen in training."""
        known = frozenset(labels)
        for example in dataset:
            if example.fields["label"] not in known:
                raise InvalidData(
                    f"{example.source}: label {example.fields['label']!r} is not in the training data",
                    hint=f"Known labels: {', '.join(labels)}.",
                )

    def resolve(self, tokenizer: Any, train: Dataset, *, max_length: int) -> dict[str, Any]:
        """crop and flip: what happens to pictures in training."""
        return {"crop": _CROP, "flip": self._may_flip(train), **train.settings}

    def encode(
        self, tokenizer: Any, dataset: Dataset, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Encoded:
        ids = {label: index for index, label in enumerate(labels)}
        wanted = [ids[example.fields["label"]] for example in dataset]
        rows = PictureRows(cast(PictureDataset, dataset), wanted, tokenizer)
        return Encoded(rows, supervised=len(rows), targets=len(rows), truncated=0)

    def augmented(self, encoded: Encoded, settings: Mapping[str, Any], seed: int) -> Sequence[Row]:
        rows = cast(PictureRows, encoded.rows)
        if settings["crop"] == 1 and not settings["flip"]:
            return rows
        return rows.augmented(Augmentation(settings["crop"], settings["flip"], seed))

    def collator(self, tokenizer: Any) -> Collator:
        return collate_pictures

    def preview(
        self, tokenizer: Any, dataset: Dataset, encoded: Encoded, labels: Sequence[str], index: int
    ) -> Preview:
        """Size as it is stored and as the model reads it, and the label."""
        example, row = dataset[index], encoded.rows[index]
        height, width = row["pixel_values"].shape[-2:]
        cells = ("picture", f"read as {width} x {height}", labels[row["labels"]])
        return Preview(example.source, Path(example.path).name, ("input", "size", "label"), (cells,))

    @abstractmethod
    def _may_flip(self, train: Dataset) -> bool:
        """Whether mirror images of the pictures are of the same class."""


@dataclass(frozen=True)
class ImageRecipe(_Pictures):
    """The recipe `image`."""

    name: str = "image"
    description: str = "one class for a picture: whatever classes your folders or labels name"
    metrics: tuple[str, ...] = ("macro_f1", "accuracy")

    def measure(
        self,
        outputs: Sequence[NDArray[Any]],
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
    ) -> Statistics:
        """outputs[r]: [labels]. Headline metrics, and f1/LABEL."""
        return class_statistics(_gold(dataset, labels), [int(np.argmax(row)) for row in outputs], labels)

    def _may_flip(self, train: Dataset) -> bool:
        """Not characters: their mirror images are others, or none."""
        return not all(
            len(label) == 1 or label.isdecimal() for label in {example.fields["label"] for example in train}
        )


@dataclass(frozen=True)
class MedicalImageRecipe(_Pictures):
    """The recipe `medical-image`. Of two labels the last, the rarer one in training, is the finding."""

    name: str = "medical-image"
    description: str = "a finding in a medical picture: rare classes, and what is asked of such classifiers"
    metrics: tuple[str, ...] = ("balanced_accuracy", "auroc", "sensitivity", "specificity", "ece")

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """See classes.ordered_classes; of two the rarer one is the last, and the one that metrics are of."""
        ordered = super().labels(train)
        counts = Counter(example.fields["label"] for example in train)
        return tuple(sorted(ordered, key=lambda label: -counts[label])) if len(ordered) == 2 else ordered

    def resolve(self, tokenizer: Any, train: Dataset, *, max_length: int) -> dict[str, Any]:
        """crop and flip; class_weights: what an example of each label, in their order, counts in the loss, as scikit-learn's
        "balanced" has it."""
        counts = Counter(example.fields["label"] for example in train)
        weights = [len(train) / (len(counts) * counts[label]) for label in self.labels(train)]
        return {**super().resolve(tokenizer, train, max_length=max_length), "class_weights": weights}

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """Cross-entropy in which an example counts by its class: its weight over the number of rows, not over the batch's
        weights, by which a batch without findings would count as much as one with some, and classes not alike."""
        from torch.nn import functional as F

        logits = outputs.float()
        weights = logits.new_tensor(settings["class_weights"])
        return F.cross_entropy(logits, batch["labels"], weights, reduction="sum") / len(logits)

    def measure(
        self,
        outputs: Sequence[NDArray[Any]],
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
    ) -> MedicalStatistics:
        """outputs[r]: [labels]. See MedicalStatistics."""
        return medical_statistics(_gold(dataset, labels), outputs, labels)

    def _may_flip(self, train: Dataset) -> bool:
        """Never: the heart is on the left."""
        return False


def _gold(dataset: Dataset, labels: Sequence[str]) -> list[int]:
    ids = {label: index for index, label in enumerate(labels)}
    return [ids[example.fields["label"]] for example in dataset]
