"""Pictures as the model's rows, made when they are asked for: decoded, perhaps augmented, prepared by the base's processor.

Decoded pictures are kept in a bounded cache, so that a data set need not fit into memory. Augmentation is a function of the
run's seed, the epoch and the row alone: a run that is resumed sees what an unbroken one does. Does not read files' lists.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from adapthub.adapters.picture_files import decode, prepare
from adapthub.recipes.data.pictures import PictureDataset
from adapthub.recipes.recipe import Row, Rows

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BaseImageProcessor

CACHE_BYTES = 256 << 20
_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a picture each time that it is learned from.

    `crop`: the smallest share of its area that a random crop keeps, 1 for none; the crop's sides are in proportion 3:4 to
    4:3 (Szegedy et al. 2015, "Going deeper with convolutions", sec. 6). `flip`: whether left and right are exchanged every
    second time.
    """

    crop: float
    flip: bool
    seed: int
    epoch: int = 0

    def __call__(self, picture: Image, row: int) -> Image:
        from PIL import ImageOps

        random = np.random.default_rng((self.seed, self.epoch, row))
        if self.crop < 1:
            picture = picture.crop(_box(picture.size, self.crop, random))
        return ImageOps.mirror(picture) if self.flip and random.random() < 0.5 else picture


class PictureRows(Sequence[Row]):
    """One row a picture of `dataset`: `pixel_values`, float32 [channels, height, width], and `labels`, an int."""

    def __init__(
        self,
        dataset: PictureDataset,
        labels: Sequence[int],
        processor: BaseImageProcessor,
        *,
        augmentation: Augmentation | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.labels = labels
        self._dataset = dataset
        self._processor = processor
        self._augmentation = augmentation
        self._cache = _Cache(cache_bytes)

    @property
    def lengths(self) -> list[int]:
        """See `recipe.lengths_of`."""
        return [1] * len(self)

    def augmented(self, augmentation: Augmentation) -> PictureRows:
        """The same pictures, each changed anew in every epoch that `set_epoch` names."""
        rows = PictureRows(self._dataset, self.labels, self._processor, augmentation=augmentation)
        rows._cache = self._cache
        return rows

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose changes the rows have from now on."""
        if self._augmentation is not None:
            self._augmentation = replace(self._augmentation, epoch=epoch)

    def __len__(self) -> int:
        return len(self._dataset)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        if isinstance(at, slice):
            return Rows(self, range(len(self))[at])
        picture = self.picture(at)
        if self._augmentation is not None:
            picture = self._augmentation(picture, at)
        return {"pixel_values": prepare(picture, self._processor), "labels": self.labels[at]}

    def picture(self, at: int) -> Image:
        """Row `at` decoded, as it is. Do not change it."""
        example = self._dataset[at]
        digest = example.fields["image"]
        found = self._cache.get(digest)
        if found is None:
            found = decode(self._dataset.bytes_of(example), example.source)
            self._cache.put(digest, found)
        return found


def collate_pictures(rows: list[Row]) -> dict[str, Tensor]:
    """`pixel_values` [rows, channels, height, width] and `labels` [rows]."""
    import torch

    batch: dict[str, Any] = {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
    return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


class _Cache:
    """Decoded pictures by digest, those used last, of `size` bytes of pixels in all."""

    def __init__(self, size: int) -> None:
        self._size = self._room = size
        self._held: OrderedDict[str, Image] = OrderedDict()

    def get(self, digest: str) -> Image | None:
        if digest not in self._held:
            return None
        self._held.move_to_end(digest)
        return self._held[digest]

    def put(self, digest: str, picture: Image) -> None:
        if _bytes(picture) > self._size:
            return
        self._held[digest] = picture
        self._room -= _bytes(picture)
        while self._room < 0:
            _, left = self._held.popitem(last=False)
            self._room += _bytes(left)


def _bytes(picture: Image) -> int:
    return 3 * picture.width * picture.height


def _box(size: tuple[int, int], crop: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, upper, right, lower of a crop that keeps between `crop` and all of the area; all of it where none fits."""
    width, height = size
    for _ in range(_TRIES):
        area = width * height * random.uniform(crop, 1)
        aspect = math.exp(random.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, upper = random.integers(width - wide + 1), random.integers(height - high + 1)
            return int(left), int(upper), int(left) + wide, int(upper) + high
    return 0, 0, width, height
