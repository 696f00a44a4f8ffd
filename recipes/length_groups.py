"""The order in which rows are learnt from: those of similar lengths together, by seed and epoch alone.

Does not make batches of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LengthGroups(Sampler[int]):
    """Row indices in an order whose consecutive `batch_size` rows have similar lengths.

    The order is a function of (seed, epoch) alone: transformers' own sampler draws from the global
    generator, whose state after a resume in the middle of an epoch is another than in an unbroken run. Rows
    are permuted, sorted by length within groups of 50 batches, cut into batches, and the batches shuffled.
    The batch with the longest row comes first, so that memory runs out early or never; an incomplete batch
    comes last.
    """

    GROUP = 50

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        seed: int,
        follow: Callable[[int], None] | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths, np.int64)
        self._follow = follow
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration orders, and tell `follow`."""
        self._epoch = epoch
        if self._follow is not None:
            self._follow(epoch)

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        rows = torch.randperm(len(self._lengths), generator=generator).numpy()
        whole = len(rows) - len(rows) % self._batch_size
        if whole and (longest := int(np.argmax(self._lengths[rows]))) >= whole:
            rows[[0, longest]] = rows[[longest, 0]]  # it would come last, and with fewer beside it
        batches = self._batches(rows[:whole])
        order = torch.randperm(len(batches), generator=generator).numpy()
        if len(batches):
            first = int(np.argmax(self._lengths[batches[order, 0]]))
            order = np.concatenate((order[first : first + 1], np.delete(order, first)))
        for batch in order:
            yield from batches[batch].tolist()
        yield from rows[whole:].tolist()

    def _batches(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[batches, batch_size]"""
        group = self.GROUP * self._batch_size
        for start in range(0, len(rows), group):
            some = rows[start : start + group]
            rows[start : start + group] = some[np.argsort(-self._lengths[some], kind="stable")]
        return rows.reshape(-1, self._batch_size)
