"""Passes as CUDA graphs: one replay computes tokens of many rows, prompts and decoding mixed, each on adapters of its own.

A pass through a model is thousands of small launches, which cost the host several times what they cost the GPU. It is
captured once for every number of tokens, number of terms and rank, each rounded up. Tokens, positions, slots and the
addresses of adapters lie in tensors that change in place, so a graph serves whatever rows and adapters come. Attention and
adapters' additions are kernels (`adapters.kernels`): to the first every token is one of its own, which attends to the keys
up to its own; the others take tokens one by one where they are few, and else by runs of one row's adapters (`token_runs`).

Serves rows whose adapters the kernels can be told of (LoRA, DoRA, prefixes, sums of them), up to a bound of scores a pass:
long prompts are few launches anyway, and want a kernel that reads keys for many tokens at once. Does not choose rows or
sample; `forward` computes what is not served here. On a CPU, under Triton's interpreter, the same passes run uncaptured: for
tests.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.captures import Captures
from adapthub.adapters.entries import Entries, Told, needed
from adapthub.adapters.errors import AdapterNotFound, OutOfMemory
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.selections import Selection
from adapthub.adapters.token_runs import most_runs, runs_of, tile_for
from adapthub.runtime.attention import attending
from adapthub.runtime.kv import KV, Held
from adapthub.runtime.rows import Part

_LOG = logging.getLogger(__name__)
_MOST_GRAPHS = 128
_MOST_FAILURES = 3  # one after the other, and no more are captured
_MOST_SCORES = 1 << 20  # query-key pairs of one head
# What a pass reads, int64 [10, tokens]: `_KEPT` are places of tokens, of the first `max_rows` at most; from `_RUNS` on are
# each run's row, first token and tokens.
_INPUTS = _IDS, _POSITIONS, _SLOTS, _LANES, _LENGTHS, _ROWS, _KEPT, _RUNS, _, _ = range(10)
INPUT_BYTES = len(_INPUTS) * 8  # a token


def graphs_for(
    adapted: AdaptedBase, kv: KV, *, context: int, max_rows: int, max_tokens: int
) -> PassGraphs | None:
    """Graphs for a base on a GPU; None elsewhere, or without Triton."""
    if not adapted.telling.works:
        return None
    return PassGraphs(adapted, kv, context=context, max_rows=max_rows, max_tokens=max_tokens)


class PassGraphs:
    """Passes of one adapted base over `max_tokens` tokens of `max_rows` rows of `context` tokens, at most."""

    def __init__(self, adapted: AdaptedBase, kv: KV, *, context: int, max_rows: int, max_tokens: int) -> None:
        self._adapted = adapted
        self._model = adapted.base.model
        self._device = adapted.base.device
        self._kv = kv
        self._max_rows = max_rows
        self._lanes = _Lanes(kv, max_rows, min(context, kv.slots), self._device)
        self._buckets = buckets_of(max(max_rows, max_tokens))
        self._paths = adapted.telling.paths  # of the graphs
        self._graphs: dict[_Key, _Graph] = {}
        self._refused: set[_Key] = set()
        self._failures = 0
        self.captures = 0  # so far, failed ones included: each takes as long as hundreds of passes
        self._logits: torch.Tensor | None = None  # of all graphs, [max_rows, vocabulary]
        self._captures = Captures(self._device) if self._device.type == "cuda" else None

    def served(self, selections: Sequence[Selection]) -> list[bool]:
        """Which of some rows, by their adapters, can be computed here. What is not attached cannot."""
        with self._adapted.alone():
            if self._are_told(selections):
                return [True] * len(selections)
            told = {selection: self._are_told([selection]) for selection in {*selections}}
        return [told[selection] for selection in selections]

    def _are_told(self, selections: Sequence[Selection]) -> bool:
        with suppress(AdapterNotFound):  # said where it is computed
            return self._adapted.telling.rows(selections) is not None
        return False

    def fits(self, parts: Sequence[Part]) -> bool:
        """Whether so many tokens and scores can be computed in one pass here."""
        if len(parts) > self._max_rows or sum(part.count for part in parts) > self._buckets[-1]:
            return False
        helds = [(part.row.held, part.count) for part in parts if part.count > 1]
        scores = sum((held.prefix_length + held.length + count) * count for held, count in helds)
        return scores <= _MOST_SCORES

    def compute(self, parts: Sequence[Part]) -> torch.Tensor | None:
        """Logits [max_rows, vocabulary] in float32, overwritten by the next call: the first are those of the parts that
        complete their rows, in order.

        All are served and fit, and hold pages for their tokens. None where such a pass could not be captured, now or
        before: no row counts as computed, and the log says why. Raises AdapterNotFound.
        """
        with self._adapted.alone(), torch.inference_mode():
            rows = self._adapted.telling.rows([part.row.request.selection for part in parts])
            if rows is None:
                raise ValueError("a row was given whose adapters are not served")
            if self._paths != self._adapted.telling.paths:  # what was captured knows other modules
                self._paths = self._adapted.telling.paths
                self._refused.clear()
                self._drop()
            graph = self._graph(self._key(sum(part.count for part in parts), rows))
            if graph is None:
                return None
            graph.entries.set(rows)
            graph.inputs.copy_(self._inputs(parts, rows, graph.inputs.shape[1]), non_blocking=True)
            logits = graph.run()
        for part in parts:
            part.row.held.length += part.count
        return logits

    def _inputs(self, parts: Sequence[Part], told: Sequence[Told], tokens: int) -> torch.Tensor:
        """What a graph reads; tokens beyond the parts' write to a slot that nobody reads, and are in no run."""
        # Pinned where there is a GPU: it is copied while the host goes on. The allocator keeps it until that is done.
        inputs = torch.empty(len(_INPUTS), tokens, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        values = inputs.numpy()
        fillers = 0, 0, self._kv.spare, self._lanes.spare, 1, 0, 0, 0, 0, 0
        values[:] = np.array(fillers)[:, None]
        if not parts:
            return inputs
        ids: list[int] = []
        slots: list[int] = []
        lanes, pasts, counts, kept = [], [], [], []
        for part in parts:
            held, count = part.row.held, part.count
            past = held.prefix_length + held.length
            lanes.append(self._lanes.place(held, past, count))
            pasts.append(past)
            counts.append(count)
            slots += held.slots(past, past + count, self._kv.page_size)
            if part.completes:
                ids += part.row.tokens[held.length :]
                kept.append(len(ids) - 1)
            else:
                ids += part.row.tokens[held.length : held.length + count]
        total = len(ids)
        rows = np.repeat(np.arange(len(parts)), counts)
        # A token's place in its row, behind the row's past ones.
        positions = np.arange(total) + (np.array(pasts) - np.cumsum(counts) + counts)[rows]
        values[_IDS, :total] = ids
        values[_POSITIONS, :total] = positions
        values[_SLOTS, :total] = slots
        values[_LANES, :total] = np.array(lanes)[rows]
        values[_LENGTHS, :total] = positions + 1
        values[_ROWS, :total] = rows
        values[_KEPT, : len(kept)] = kept
        if tile := tile_for(tokens):
            runs = runs_of(told, counts, tile)
            values[_RUNS:, : runs.shape[1]] = runs
        return inputs

    def _key(self, tokens: int, rows: Sequence[Told]) -> _Key:
        """The pass to capture; one that is captured, of as many tokens and with more room for adapters, will do."""
        bucket = next(bucket for bucket in self._buckets if bucket >= tokens)
        terms, rank = needed(rows)
        if terms:
            roomy = [(t, r) for b, t, r in self._graphs if b == bucket and t >= terms and r >= rank]
            terms, rank = min(roomy, default=(terms, rank))
        return bucket, terms, rank

    def _graph(self, key: _Key) -> _Graph | None:
        if key not in self._graphs:
            if key in self._refused or self._failures >= _MOST_FAILURES:
                return None
            if len(self._graphs) >= _MOST_GRAPHS:
                self._drop()
            failure: type[Exception] | None = None
            self.captures += 1
            try:
                with memory_errors("capturing a pass", "Lower kv_tokens, step_tokens or max_rows."):
                    self._graphs[key] = self._capture(*key)
            except Exception as error:
                _LOG.warning("passes of %d tokens go without a CUDA graph", key[0], exc_info=True)
                failure = type(error)
            # Here, behind the handler: what was made for the capture is not held any more.
            self._failures = self._failures + 1 if failure else 0
            if failure:
                if failure is not OutOfMemory:
                    self._refused.add(key)
                self._drop()
                return None
        return self._graphs[key]

    def _drop(self) -> None:
        """Forget all graphs: never a single one, since with it goes the workspace of their products, which they share."""
        self._graphs.clear()
        if self._captures is not None:
            self._captures.begin_anew()

    def _capture(self, tokens: int, terms: int, rank: int) -> _Graph:
        entries = self._adapted.telling.empty(min(tokens, self._max_rows), terms, rank)
        inputs = self._inputs((), (), tokens).to(self._device)

        def run() -> torch.Tensor:
            return self._pass(inputs, entries)

        if self._captures is None:
            return _Graph(inputs, entries, run)
        graph = self._captures.of(run)
        logits = self._logits
        assert logits is not None

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return _Graph(inputs, entries, replay)

    def _pass(self, inputs: torch.Tensor, entries: Entries) -> torch.Tensor:
        """The model over [1, tokens]: logits [max_rows, vocabulary], of which the first are the kept tokens'."""
        slots, lanes, lengths, row_of = (inputs[place] for place in (_SLOTS, _LANES, _LENGTHS, _ROWS))
        kept = inputs[_KEPT, : self._max_rows]
        self._lanes.table[lanes, lengths - 1] = slots.int()
        tile, runs = tile_for(inputs.shape[1]), None
        if tile:
            runs = inputs[_RUNS:, : most_runs(inputs.shape[1], self._max_rows, tile)]
        told = entries.of(row_of, kept, runs, tile)
        attention = _Attention(self._kv, self._lanes.table, slots, lanes, lengths)
        with self._adapted.applying_told(told, told.paths), attending(attention):
            logits: torch.Tensor = self._model(
                input_ids=inputs[_IDS : _IDS + 1],
                position_ids=inputs[_POSITIONS : _POSITIONS + 1],
                use_cache=False,
                logits_to_keep=kept,
            ).logits[0]
        if self._logits is None:
            self._logits = logits.new_empty(self._max_rows, logits.shape[1], dtype=torch.float32)
        self._logits[: len(logits)].copy_(logits)
        return self._logits


# Tokens of a pass, terms of a row, rank: each rounded up.
_Key = tuple[int, int, int]


@dataclass(frozen=True)
class _Graph:
    """One captured pass: what it reads, and what runs it."""

    inputs: torch.Tensor
    entries: Entries
    run: Callable[[], torch.Tensor]


@dataclass
class _Lane:
    """The lane of who holds `held`, which is kept here so that its identity stays its own; the slots that the table has."""

    held: Held
    place: int
    filled: int = 0


class _Lanes:
    """Which slots hold each row's keys, kept on the device from pass to pass: `table` int32 [lanes, width].

    A row keeps its lane while it comes back; another that wants one takes that of the row that stayed away longest.
    """

    def __init__(self, kv: KV, lanes: int, width: int, device: torch.device) -> None:
        self._page_size = kv.page_size
        self.table = torch.full((lanes + 1, width), kv.spare, dtype=torch.int32, device=device)
        self.spare = lanes
        self._free = list(range(lanes))
        self._rows: OrderedDict[int, _Lane] = OrderedDict()  # by the identity of what a row holds

    def place(self, held: Held, past: int, new: int) -> int:
        """A row's lane, in which the slots of its `past` keys are now; the pass adds those of its `new` ones."""
        lane = self._rows.get(id(held))
        if lane is None:
            place = self._free.pop() if self._free else self._rows.popitem(last=False)[1].place
            lane = self._rows[id(held)] = _Lane(held, place)
        else:
            self._rows.move_to_end(id(held))
        if lane.filled < past:
            missing = torch.tensor(held.slots(lane.filled, past, self._page_size), dtype=torch.int32)
            self.table[lane.place, lane.filled : past] = missing.to(self.table.device)
        lane.filled = past + new
        return lane.place


@dataclass(frozen=True)
class _Attention:
    """Every token attends to the first slots that its lane names, as many as its length says."""

    kv: KV
    table: torch.Tensor
    slots: torch.Tensor
    lanes: torch.Tensor
    lengths: torch.Tensor

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """query [1, heads, T, d], key [1, kv heads, T, d] and value [1, kv heads, T, dv] -> [T, heads, dv]."""
        from adapthub.adapters.kernels import decode_attention

        keys, values = self.kv.keys[layer], self.kv.values[layer]
        keys.index_copy_(1, self.slots, key[0])
        values.index_copy_(1, self.slots, value[0])
        return decode_attention.attend(
            query[0].transpose(0, 1),
            keys,
            values,
            self.table,
            self.lanes,
            self.lengths,
            scale,
            window,
            softcap,
            None if sinks is None else sinks.contiguous(),
        )


def buckets_of(most: int) -> list[int]:
    """Numbers of tokens that passes are captured for: 1, 2, 4, every eighth up to 64, and two in each doubling behind."""
    steps = [1, 2, 4, *range(8, 64, 8)]
    size = 64
    while size < most:
        steps += [size, size * 3 // 2]
        size *= 2
    return [*[step for step in steps if step < most], most]
