"""Each process's share of every batch, where several train together: of a batch's rows each takes every count-th.

Rows of a batch lie by length, so shares cost about the same. No row is seen twice: where a batch has fewer rows than there
are processes, those without one compute a row that asks for nothing. Does not order rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from adapthub.recipes.batches import IGNORED
from adapthub.recipes.recipe import Row

if TYPE_CHECKING:
    from torch import Tensor

    from adapthub.recipes.processes import Processes


class Shares(BatchSampler):
    """The places of this process's rows, batch by batch; ~place where the row stands in for one that is missing.

    `sampler`: the order of all rows; `batch_size`: those of a batch over all processes.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, processes: Processes) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self._processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            yield batch[self._processes.index :: self._processes.count] or [~batch[0]]


class _NothingAsked(dict[str, Any]):
    """A row that is computed for the sake of the other processes."""


class _Rows(Dataset[Row]):
    """Rows by place, or by ~place."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Row:
        return dict(self._rows[place]) if place >= 0 else _NothingAsked(self._rows[~place])


def shared_loader(
    rows: Sequence[Row],
    sampler: Sampler[int],
    batch_size: int,
    collate: Callable[[list[Row]], dict[str, Tensor]],
    processes: Processes,
    device: torch.device,
) -> DataLoader[Any]:
    """Batches of this process's shares, on `device`."""

    def collated(share: list[Row]) -> dict[str, Tensor]:
        batch = collate(share)
        if isinstance(share[0], _NothingAsked):
            batch = {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}
        return batch

    loader: DataLoader[Any] = DataLoader(
        _Rows(rows),
        batch_sampler=Shares(sampler, batch_size, processes),
        collate_fn=collated,
        pin_memory=device.type == "cuda",
    )
    prepared = prepare_data_loader(
        loader, device, num_processes=1, process_index=0, put_on_device=True, rng_types=None
    )
    return cast("DataLoader[Any]", prepared)
