"""What the GPU's kernels are told of adapters: for every adapted module and row, the addresses of the row's matrices.

`Entries` is a set of tensors whose place never changes, for passes of up to so many rows: a captured CUDA graph reads them,
and serves other adapters once they have been `set` anew. LoRA with its bias and DoRA can be told; `addresses` says so
of each adapter. Whoever runs a pass keeps its adapters attached until it has ended.

Does not capture or run anything, and does not know which rows there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adapthub.adapters.binder import Binding
from adapthub.adapters.delta import Dora, LowRank, Update
from adapthub.adapters.siblings import groups

# As kernels.low_rank has them, which cannot be imported where there is no Triton.
_COLUMNS, _FACTORS = 6, 2
_ALIGNMENT = 16  # bytes
# A row's adapters at their weights.
Told = tuple[tuple[float, "Addresses"], ...]


@dataclass(frozen=True, eq=False)
class Addresses:
    """One adapter's: int64 [modules, 6] and its scales, float32 [modules], over all modules that are told of; `rank` is the
    highest, `touched` the paths of its own."""

    table: torch.Tensor
    scales: torch.Tensor
    rank: int
    touched: frozenset[str]


def addresses(binding: Binding, paths: Sequence[str], dtype: torch.dtype) -> Addresses | None:
    """Those of an adapter over the modules at `paths`, all that it touches among them.

    None where the kernels do not compute what it adds: another kind of update, several under one module, another dtype, a
    matrix that begins where a GPU cannot read many bytes at once.
    """
    found: dict[str, tuple[tuple[int, ...], float]] = {}
    for path, updates in binding.updates.items():
        row = _row(updates[0], dtype) if len(updates) == 1 else None
        if row is None:
            return None
        found[path] = row
    nothing = (0,) * _COLUMNS, 0.0
    rows = [found.get(path, nothing) for path in paths]
    table = torch.tensor([row for row, _ in rows], dtype=torch.int64).reshape(-1, _COLUMNS)
    scales = torch.tensor([scale for _, scale in rows])
    return Addresses(table, scales, max((row[-1] for row, _ in found.values()), default=0), frozenset(found))


def _row(update: Update, dtype: torch.dtype) -> tuple[tuple[int, ...], float] | None:
    gain = base_bias = None
    if isinstance(update, Dora):
        gain, base_bias, update = update.gain, update.base_bias, update.low_rank
    if not isinstance(update, LowRank):
        return None
    tensors = update.a, update.b, update.bias, gain, base_bias
    for tensor in tensors:
        if tensor is not None and not (
            tensor.dtype == dtype and tensor.is_contiguous() and _is_aligned(tensor)
        ):
            return None
    starts = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (*starts, update.rank), update.scale


def _is_aligned(tensor: torch.Tensor) -> bool:
    """Whether a GPU can read many bytes of it at once; on a CPU that is nobody's matter."""
    return tensor.device.type == "cpu" or tensor.data_ptr() % _ALIGNMENT == 0


class NotTold(Exception):
    """A module of this pass is not what the kernels were told: its tokens or their dtype are others."""


class Entries:
    """For passes of at most `rows` rows, each under at most `terms` adapters, over the modules at `paths`.

    `rank` is the highest; `dtype` that of all matrices. On a GPU half of the work is done on the stream `beside`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        rows: int,
        terms: int,
        rank: int,
        device: torch.device,
        dtype: torch.dtype,
        beside: torch.cuda.Stream | None = None,
    ) -> None:
        self._places = {path: place for place, path in enumerate(paths)}
        self._terms, self._rank, self._dtype, self._beside = terms, rank, dtype, beside
        self._table = torch.zeros(rows, terms, len(paths), _COLUMNS, dtype=torch.int64, device=device)
        self._factors = torch.zeros(rows, terms, len(paths), _FACTORS, device=device)
        self._told: list[Told] = [()] * rows

    def set(self, rows: Sequence[Told]) -> None:
        """Tell each row's (weight, adapter) terms; rows beyond those given have none."""
        told = [*rows, *[()] * (len(self._told) - len(rows))]
        changed = [row for row, (new, old) in enumerate(zip(told, self._told, strict=True)) if new != old]
        if not changed:
            return
        table = torch.zeros(len(changed), *self._table.shape[1:], dtype=torch.int64)
        factors = torch.zeros(len(changed), *self._factors.shape[1:])
        for place, row in enumerate(changed):
            for term, (weight, adapter) in enumerate(told[row]):
                table[place, term] = adapter.table
                factors[place, term, :, 0] = adapter.scales * weight
                factors[place, term, :, 1] = weight
        places = torch.tensor(changed, device=self._table.device)
        self._told = [()] * len(told)  # should what follows fail, nothing is taken to be there
        self._table.index_copy_(0, places, table.to(places.device))
        self._factors.index_copy_(0, places, factors.to(places.device))
        self._told = told

    def of(
        self, row_of: torch.Tensor, kept: torch.Tensor, runs: torch.Tensor | None = None, tile: int = 0
    ) -> TokenEntries:
        """Those of a pass's tokens, whose rows are `row_of` [T], `kept` [K] of which reach the output embeddings.

        With `runs` int64 [3, n] of at most `tile` tokens (`token_runs`) they share what they read, those that do.
        """
        by_runs = _Tokens(len(row_of), self._table, self._factors, runs, tile)
        tokens = self._apart(row_of) if runs is None else by_runs
        return TokenEntries(
            self._places, self._rank, self._dtype, self._beside, tokens, self._apart(row_of[kept])
        )

    def _apart(self, row_of: torch.Tensor) -> _Tokens:
        table, factors = (each.index_select(0, row_of) for each in (self._table, self._factors))
        return _Tokens(len(row_of), table, factors)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """Some tokens' entries: by token, or, with `runs` of up to `tile`, by row."""

    count: int
    table: torch.Tensor
    factors: torch.Tensor
    runs: torch.Tensor | None = None
    tile: int = 0

    def shrink(self, x: torch.Tensor, places: Sequence[int], most: int) -> torch.Tensor:
        from adapthub.adapters.kernels import low_rank, low_rank_runs

        if self.runs is None:
            return low_rank.shrink(x, self.table, self.factors, places, most)
        return low_rank_runs.shrink(x, self.table, self.factors, self.runs, places, most, self.tile)

    def expand_(self, ys: Sequence[torch.Tensor], low: torch.Tensor, places: Sequence[int]) -> None:
        from adapthub.adapters.kernels import low_rank, low_rank_runs

        if self.runs is None:
            low_rank.expand_(ys, low, self.table, self.factors, places)
        else:
            low_rank_runs.expand_(ys, low, self.table, self.factors, self.runs, places, self.tile)


class TokenEntries:
    """Entries by token, for one pass. Adds in two halves: the first as soon as a module's input is there.

    On a GPU the first half runs on a stream of its own, beside the base's product. Modules that read the same input
    (`siblings`) are begun by the first of them, in one launch, and ended in one where their outputs are all there.
    """

    def __init__(
        self,
        places: Mapping[str, int],
        rank: int,
        dtype: torch.dtype,
        beside: torch.cuda.Stream | None,
        tokens: _Tokens,
        kept: _Tokens,
    ) -> None:
        self.paths = tuple(places)
        self._places, self._rank, self._dtype, self._beside = places, rank, dtype, beside
        self._tokens, self._kept = tokens, kept
        self._group = {group[0]: group for group in groups(places)}
        # With the input that it is made of: another stream reads that, unknown to the allocator.
        self._low: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._ended: set[str] = set()

    def begin(self, path: str, x: torch.Tensor, is_output: bool) -> None:
        """The module at `path` is about to run on x [tokens, in], or [kept, in] if it is the output embeddings.

        Raises NotTold.
        """
        if path in self._low and _same(self._low[path][1], x):
            return
        self._ended.discard(path)
        told = self._kept if is_output else self._tokens
        if len(x) != told.count or x.dtype != self._dtype:
            raise NotTold(f"{path!r} sees {len(x)} tokens of {x.dtype}, not {told.count} of {self._dtype}")
        paths = self._group.get(path, (path,))
        places = [self._places[other] for other in paths]
        x = x.contiguous()
        if self._beside is None:
            low = told.shrink(x, places, self._rank)
        else:
            self._beside.wait_stream(torch.cuda.current_stream(x.device))
            with torch.cuda.stream(self._beside):
                low = told.shrink(x, places, self._rank)
        self._low |= {other: (low[slice_ : slice_ + 1], x) for slice_, other in enumerate(paths)}
        self._ended -= {*paths}

    def end_(
        self, path: str, y: torch.Tensor, is_output: bool, others: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Add to its output y [tokens, out], or [kept, out], what the tokens' adapters add; and to what is there of `others`
        that read the same input, whose own end then adds nothing. Raises NotTold."""
        low, _ = self._low.pop(path)
        if path in self._ended:
            self._ended.remove(path)
            return
        if self._beside is not None:
            torch.cuda.current_stream(y.device).wait_stream(self._beside)
        ys = {path: y}
        # Those behind it lie behind it in `low` too, of which this is the first.
        group = self._group.get(path, (path,))
        if others and len(group) > 1 and all(other in others for other in group[1:]):
            ys |= {other: others[other] for other in group[1:]}
            low = _whole(low, len(group))
            self._ended |= {*group[1:]}
        for name, found in ys.items():
            if found.dtype != self._dtype:
                raise NotTold(f"{name!r} gives {found.dtype}, not {self._dtype}")
        told = self._kept if is_output else self._tokens
        told.expand_([*ys.values()], low, [self._places[name] for name in ys])


def _same(kept: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether x is what is kept, which is contiguous and alive."""
    return kept.data_ptr() == x.data_ptr() and kept.shape == x.shape and x.is_contiguous()


def _whole(first: torch.Tensor, count: int) -> torch.Tensor:
    """[count, ...] of which `first` [1, ...] is a view of the first."""
    return first.as_strided((count, *first.shape[1:]), first.stride())


def needed(rows: Sequence[Told]) -> tuple[int, int]:
    """(terms, rank) that entries must have for `rows`, rounded up to few: a power of two, and 16, 64, 256 and so on."""
    terms = max(map(len, rows), default=0)
    most = max((adapter.rank for row in rows for _, adapter in row), default=0)
    rank = 16
    while rank < most:
        rank *= 4
    return (1 << (terms - 1).bit_length(), rank) if terms else (0, 0)
