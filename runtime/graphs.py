"""Passes as CUDA graphs: one replay computes tokens of many rows, prompts and decoding mixed, each on adapters of its own.

A pass through a model is thousands of small launches, which cost the host several times what they cost the GPU. It is
captured once for every number of tokens (rounded up), number of terms and rank. Tokens, positions, slots and the addresses
of adapters lie in tensors that change in place, so a graph serves whatever rows and adapters come. Attention and adapters'
additions are kernels (`adapthub.kernels`), to which every token is one of its own: it names its row's adapters, and attends
to the keys up to its own.

Serves rows whose adapters the kernels can be told of (LoRA, DoRA, prefixes, sums of them), up to a bound of scores a pass:
long prompts are few launches anyway, and want a kernel that reads keys for many tokens at once. Does not choose rows or
sample; `forward` computes what is not served here. On a CPU, under Triton's interpreter, the same passes run uncaptured: for
tests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adapthub.adapters.attach import AdaptedBase, Selection
from adapthub.adapters.entries import Entries, needed
from adapthub.adapters.telling import Told
from adapthub.runtime.attention import attending
from adapthub.runtime.kv import KV, Held
from adapthub.runtime.rows import Part

_WARM_UPS = 2  # passes before a capture: kernels are compiled and libraries set up
_MOST_GRAPHS = 64
_MOST_SCORES = 1 << 20  # query-key pairs of one head
_INPUTS = _IDS, _POSITIONS, _SLOTS, _LANES, _LENGTHS, _ROWS = range(6)


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
        self._buckets = _buckets(max(max_rows, max_tokens))
        self._paths = adapted.telling.paths  # of the graphs
        self._graphs: OrderedDict[_Key, _Graph] = OrderedDict()
        self._pool: Any = None

    def serves(self, selection: Selection) -> bool:
        """Whether rows of `selection` can be computed here. Raises AdapterNotFound."""
        with self._adapted.alone():
            return self._adapted.telling.rows([selection]) is not None

    def fits(self, parts: Sequence[Part]) -> bool:
        """Whether so many tokens and scores can be computed in one pass here."""
        if len(parts) > self._max_rows or sum(part.count for part in parts) > self._buckets[-1]:
            return False
        helds = [(part.row.held, part.count) for part in parts if part.count > 1]
        scores = sum((held.prefix_length + held.length + count) * count for held, count in helds)
        return scores <= _MOST_SCORES

    def compute(self, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
        """Logits [vocabulary] in float32 of every part that completes its row, by request: overwritten by the next call.

        All are served and fit, and hold pages for their tokens. Raises AdapterNotFound, and whatever capturing the model
        raises; then no row counts as computed.
        """
        with self._adapted.alone(), torch.inference_mode():
            rows = self._told(parts)
            tokens = sum(part.count for part in parts)
            key = self._key(tokens, rows)
            telling, touched = self._adapted.telling, self._adapted.touched
            if key not in self._graphs and not touched.issuperset(telling.paths):
                # A capture sees the modules that are adapted now; what it does not see it would not serve later.
                telling.cover(touched.intersection(telling.paths))
                rows = self._told(parts)
            graph = self._graph(key)
            graph.entries.set(rows)
            complete = [part for part in parts if part.completes]
            graph.inputs.copy_(self._inputs(parts, graph.inputs.shape[1]))
            graph.kept.copy_(_kept(parts, len(graph.kept)))
            logits = graph.run()
        for part in parts:
            part.row.held.length += part.count
        return {part.row.request.id: row for part, row in zip(complete, logits, strict=False)}

    def _told(self, parts: Sequence[Part]) -> list[Told]:
        rows = self._adapted.telling.rows([part.row.request.selection for part in parts])
        if self._paths != self._adapted.telling.paths:  # what was captured knows other modules
            self._paths = self._adapted.telling.paths
            self._graphs.clear()
        if rows is None:
            raise ValueError("a row was given whose adapters are not served")
        return rows

    def _inputs(self, parts: Sequence[Part], tokens: int) -> torch.Tensor:
        """What a graph reads, int64 [6, tokens]; tokens beyond the parts' write to a slot that nobody reads."""
        columns: list[list[int]] = [[] for _ in _INPUTS]
        ids, positions, slots, lanes, lengths, rows = columns
        for place, part in enumerate(parts):
            held, count = part.row.held, part.count
            past = held.prefix_length + held.length
            lane, own = self._lanes.place(held, past, count)
            ids += part.row.tokens[held.length : held.length + count]
            positions += range(past, past + count)
            slots += own
            lanes += [lane] * count
            lengths += range(past + 1, past + count + 1)
            rows += [place] * count
        fillers = 0, 0, self._kv.spare, self._lanes.spare, 1, 0
        missing = tokens - len(ids)
        filled = [[*column, *[filler] * missing] for column, filler in zip(columns, fillers, strict=True)]
        return torch.tensor(filled, dtype=torch.int64)

    def _key(self, tokens: int, rows: Sequence[Told]) -> _Key:
        bucket = next(bucket for bucket in self._buckets if bucket >= tokens)
        return bucket, *needed(rows)

    def _graph(self, key: _Key) -> _Graph:
        if key not in self._graphs:
            while len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = self._capture(*key)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, tokens: int, terms: int, rank: int) -> _Graph:
        rows = min(tokens, self._max_rows)
        paths, dtype = self._paths if terms else (), self._adapted.base.dtype
        entries = Entries(paths, rows, terms, rank, self._device, dtype)
        inputs = self._inputs((), tokens).to(self._device)
        kept = torch.zeros(rows, dtype=torch.int64, device=self._device)

        def run() -> torch.Tensor:
            return self._pass(inputs, kept, entries)

        if self._device.type != "cuda":
            return _Graph(inputs, kept, entries, run)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads load adapters meanwhile: what they do is no part of the graph, and allowed.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            logits = run()
        self._pool = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return _Graph(inputs, kept, entries, replay)

    def _pass(self, inputs: torch.Tensor, kept: torch.Tensor, entries: Entries) -> torch.Tensor:
        """The model over [1, tokens]: logits [kept, vocabulary]."""
        slots, lanes, lengths, row_of = (inputs[place] for place in (_SLOTS, _LANES, _LENGTHS, _ROWS))
        self._lanes.table[lanes, lengths - 1] = slots.int()
        attention = _Attention(self._kv, self._lanes.table, slots, lanes, lengths)
        with self._adapted.applying_told(entries.of(row_of, kept)), attending(attention):
            logits: torch.Tensor = self._model(
                input_ids=inputs[_IDS : _IDS + 1],
                position_ids=inputs[_POSITIONS : _POSITIONS + 1],
                use_cache=False,
                logits_to_keep=kept,
            ).logits[0]
            return logits.float()


# Tokens of a pass, terms of a row, rank: each rounded up.
_Key = tuple[int, int, int]


@dataclass(frozen=True)
class _Graph:
    """One captured pass: what it reads, and what runs it."""

    inputs: torch.Tensor
    kept: torch.Tensor
    entries: Entries
    run: Callable[[], torch.Tensor]


class _Lanes:
    """Which slots hold each row's keys, kept on the device from pass to pass: `table` int32 [lanes, width].

    A row keeps its lane while it comes back; another that wants one takes that of the row that stayed away longest.
    """

    def __init__(self, kv: KV, lanes: int, width: int, device: torch.device) -> None:
        self._page_size = kv.page_size
        self.table = torch.full((lanes + 1, width), kv.spare, dtype=torch.int32, device=device)
        self.spare = lanes
        self._free = list(range(lanes))
        # By the identity of what a row holds, which is kept here and so stays its own: lane, and slots that the table has.
        self._rows: OrderedDict[int, tuple[Held, int, int]] = OrderedDict()

    def place(self, held: Held, past: int, new: int) -> tuple[int, list[int]]:
        """A row's lane, in which the slots of its `past` keys are now, and those of its `new` ones, which the pass adds."""
        known = self._rows.pop(id(held), None)
        if known is None:
            lane = self._free.pop() if self._free else self._rows.popitem(last=False)[1][1]
            known = held, lane, 0
        _, lane, filled = known
        if filled < past:
            missing = torch.tensor(self._slots(held, filled, past), dtype=torch.int32)
            self.table[lane, filled:past] = missing.to(self.table.device)
        self._rows[id(held)] = held, lane, past + new
        return lane, self._slots(held, past, past + new)

    def _slots(self, held: Held, first: int, last: int) -> list[int]:
        return [slot for a, b in held.spans(first, last, self._page_size) for slot in range(a, b)]


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
        from adapthub.kernels import decode_attention

        if sinks is not None:
            raise NotImplementedError("attention sinks are not computed by the kernel")
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
        )


def _kept(parts: Sequence[Part], rows: int) -> torch.Tensor:
    """Places [rows] of the tokens behind which the parts that complete their rows go on; any others after them."""
    ends, end = [], 0
    for part in parts:
        end += part.count
        if part.completes:
            ends.append(end - 1)
    return torch.tensor(ends + [0] * (rows - len(ends)), dtype=torch.int64)


def _buckets(most: int) -> list[int]:
    """Numbers of tokens that passes are captured for: small ones exactly enough, of large ones two in each doubling."""
    steps = [1, 2, 4, *range(8, 64, 8)]
    size = 64
    while size < most:
        steps += [size, size * 3 // 2]
        size *= 2
    return [*[step for step in steps if step < most], most]
