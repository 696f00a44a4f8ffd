"""Which rows' adapters a base's kernels compute, and what they are told of them.

Looks adapters up once, over all modules that they touch together; another module, and all are looked up anew. Does not run
passes. Not thread-safe: its owner holds the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from adapthub.adapters.bank import Bank
from adapthub.adapters.delta import Segment
from adapthub.adapters.entries import Addresses, Entries, TokenEntries, addresses, needed

if TYPE_CHECKING:
    from adapthub.adapters.base import Base

# Runs of rows from which the kernels' two launches a module beat three a run, and tokens that they are told of at once.
_WORTH_TELLING, _MOST_TOKENS = 4, 4096
# A row's adapters: weights, and addresses over `Telling.paths`.
Told = list[tuple[float, Addresses]]


class Telling:
    """What the kernels of one base are told of the adapters in `bank`; `works` where there are a GPU and Triton."""

    def __init__(self, base: Base, bank: Bank) -> None:
        self._device, self._dtype = base.device, base.dtype
        self._bank = bank
        self._known: dict[str, Addresses | None] = {}
        self.paths: tuple[str, ...] = ()
        self.works = base.device.type == "cuda" and find_spec("triton") is not None

    def rows(self, selections: Sequence[Sequence[tuple[float, str]]]) -> list[Told] | None:
        """Each row's terms; None where the kernels do not compute what some adapter adds. Raises AdapterNotFound."""
        paths = None
        while paths != self.paths:  # else some were looked up over fewer modules than others
            paths = self.paths
            rows = [
                [(weight, self._find(digest)) for weight, digest in selection] for selection in selections
            ]
        told = [[(weight, found) for weight, found in row if found is not None] for row in rows]
        return told if [*map(len, told)] == [*map(len, rows)] else None

    def entries(self, segments: Sequence[Segment]) -> TokenEntries | None:
        """Those of a pass over segments that are many; None where kernels are no use."""
        tokens = segments[-1].stop
        if not self.works or len(segments) < _WORTH_TELLING or tokens > _MOST_TOKENS:
            return None
        rows = self.rows([segment.terms for segment in segments])
        if rows is None:
            return None
        entries = Entries(self.paths, len(rows), *needed(rows), self._device, self._dtype)
        entries.set(rows)
        counts = torch.tensor([segment.stop - segment.start for segment in segments])
        row_of = torch.arange(len(rows)).repeat_interleave(counts).to(self._device)
        return entries.of(row_of, row_of[:0])

    def forget(self, digest: str) -> None:
        """The adapter leaves: where its matrices were, others may be."""
        self._known.pop(digest, None)

    def cover(self, paths: Iterable[str]) -> None:
        """From now on over the modules at `paths`, until an adapter touches another."""
        self.paths = tuple(sorted(paths))
        self._known.clear()

    def _find(self, digest: str) -> Addresses | None:
        binding = self._bank.get(digest)
        if digest not in self._known:
            found = addresses(binding, self.paths, self._dtype)
            if found is not None and not binding.updates.keys() <= set(self.paths):
                self.cover({*self.paths, *binding.updates})
                found = addresses(binding, self.paths, self._dtype)
            self._known[digest] = found
        return self._known[digest]
