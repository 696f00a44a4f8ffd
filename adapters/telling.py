"""Which rows' adapters a base's kernels compute, and what they are told of them.

Looks adapters up once, over all modules that any of them has touched; another module, and all are looked up anew. Does not
run passes. Not thread-safe: its owner holds the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from adapthub.adapters.bank import Bank
from adapthub.adapters.delta import Segment
from adapthub.adapters.entries import Addresses, Entries, TokenEntries, Told, addresses, needed
from adapthub.adapters.kernel_trial import kernels_run
from adapthub.adapters.token_runs import runs_of, tile_for

if TYPE_CHECKING:
    from adapthub.adapters.base import Base

# Segments from which the kernels' two launches a module beat two or three a segment.
_WORTH_TELLING = 4


class Telling:
    """What the kernels of one base are told of the adapters in `bank`; `works` where there is a GPU on which they run."""

    def __init__(self, base: Base, bank: Bank) -> None:
        self._device, self._dtype = base.device, base.dtype
        self._bank = bank
        self._known: dict[str, Addresses | None] = {}
        # What was asked for last, and the answer: rows that decode are the same step after step.
        self._asked: Sequence[Sequence[tuple[float, str]]] | None = None
        self._answer: list[Told] | None = None
        self.paths: tuple[str, ...] = ()
        self.works = kernels_run(base.device)
        # Of a priority of its own, and so of a pool of streams that no loader takes one from. One for all passes.
        self.beside = torch.cuda.Stream(self._device, priority=-1) if self.works else None

    def rows(self, selections: Sequence[Sequence[tuple[float, str]]]) -> list[Told] | None:
        """Each row's terms; None where the kernels do not compute what some adapter adds. Raises AdapterNotFound."""
        if selections == self._asked:
            return self._answer
        answer = self._rows(selections)
        self._asked, self._answer = selections, answer
        return answer

    def _rows(self, selections: Sequence[Sequence[tuple[float, str]]]) -> list[Told] | None:
        paths = None
        while paths != self.paths:  # else some were looked up over fewer modules than others
            paths = self.paths
            rows = [
                [(weight, self._find(digest)) for weight, digest in selection] for selection in selections
            ]
        if any(found is None for row in rows for _, found in row):
            return None
        # A prefix touches no module.
        return [
            tuple((weight, found) for weight, found in row if found is not None and found.rank)
            for row in rows
        ]

    def entries(self, segments: Sequence[Segment]) -> TokenEntries | None:
        """Those of a pass over segments that are many; None where kernels are no use."""
        if not self.works or len(segments) < _WORTH_TELLING:
            return None
        rows = self.rows([segment.terms for segment in segments])
        if rows is None:
            return None
        entries = self.empty(len(rows), *needed(rows))
        entries.set(rows)
        counts = [segment.stop - segment.start for segment in segments]
        row_of = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts)).to(self._device)
        if not (tile := tile_for(len(row_of))):
            return entries.of(row_of, row_of[:0])
        runs = torch.from_numpy(runs_of(rows, counts, tile)).to(self._device)
        return entries.of(row_of, row_of[:0], runs, tile)

    def empty(self, rows: int, terms: int, rank: int) -> Entries:
        """Entries to be told of rows; without terms they are of no module."""
        paths = self.paths if terms else ()
        return Entries(paths, rows, terms, rank, self._device, self._dtype, self.beside)

    def forget(self, digest: str) -> None:
        """The adapter leaves: where its matrices were, others may be."""
        self._known.pop(digest, None)
        self._asked = self._answer = None

    def _find(self, digest: str) -> Addresses | None:
        binding = self._bank.get(digest)
        if digest not in self._known:
            found = addresses(binding, self.paths, self._dtype)
            if found is not None and not binding.updates.keys() <= set(self.paths):
                self.paths = tuple(sorted({*self.paths, *binding.updates}))
                self._known.clear()
                self._asked = self._answer = None
                found = addresses(binding, self.paths, self._dtype)
            self._known[digest] = found
        return self._known[digest]
