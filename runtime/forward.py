"""One pass of the base over parts of many rows, each on adapters of its own: tokens to logits.

Does not choose the parts, take pages, or sample.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.delta import Segment
from adapthub.adapters.errors import AdaptHubError, OutOfMemory
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.selections import Selection
from adapthub.runtime.attention import PagedRow, paged_batch, positions
from adapthub.runtime.graphs import PassGraphs
from adapthub.runtime.kv import KV
from adapthub.runtime.requests import Request, as_ours
from adapthub.runtime.rows import Part


@dataclass(frozen=True)
class Results:
    """What a pass made of its parts: `logits` [rows, vocabulary] in float32 of the requests `ids`, None where there are
    none; `errors` of those that failed."""

    ids: list[str] = field(default_factory=list)
    logits: torch.Tensor | None = None
    errors: Mapping[str, AdaptHubError] = field(default_factory=dict)


class Forward:
    """Passes of one adapted base, whose keys and values go to `kv`; the base's attention is set to it
    (`attention.serves`). `graphs` serve what they can, None of them nothing."""

    def __init__(self, adapted: AdaptedBase, kv: KV, graphs: PassGraphs | None) -> None:
        self._adapted = adapted
        self._model = adapted.base.model
        self._device = adapted.base.device
        self._kv = kv
        self.graphs = graphs
        self.penalty = 1.0  # for repetition, where a request says none

    @property
    def captures(self) -> int:
        """Graphs that were captured so far, or could not be: passes that took longer than others of their size."""
        return 0 if self.graphs is None else self.graphs.captures

    def check(self, selection: Selection) -> None:
        """Raises what `Selections.check_generation` does for adapters whose rows cannot generate."""
        self._adapted.selections.check_generation(selection)

    def read(self, request: Request) -> Sequence[int]:
        """Tokens that the model writes on from, which a repetition penalty counts: the prompt's."""
        return request.prompt_ids

    def compute(self, parts: Sequence[Part]) -> Results:
        """Logits of every part that completes its row: overwritten by the next call. A failing adapter fails alone.

        The parts are sorted by selection, and their rows hold pages for them.
        """
        if self.graphs is None:
            return together(self._compute(parts))
        # Rows that may read each other's pages, written in this very pass, have the same adapters.
        served = self.graphs.served([part.row.request.selection for part in parts])
        told = [part for part, is_served in zip(parts, served, strict=True) if is_served]
        if not told or not self.graphs.fits(told):
            return together(self._compute(parts))
        others = [part for part, is_served in zip(parts, served, strict=True) if not is_served]
        results = self._compute(others) if others else {}
        complete = [part.row.request.id for part in told if part.completes]
        try:
            logits = self.graphs.compute(told)
        except Exception as error:  # out of memory, say; the others' results stand
            return together(
                results | {part.row.request.id: as_ours(error, "the pass failed") for part in told}
            )
        if logits is None:
            return together(results | self._compute(told))
        if not results:
            return Results(complete, logits[: len(complete)])
        return together({**results, **dict(zip(complete, logits, strict=False))})

    def _compute(self, parts: Sequence[Part]) -> dict[str, torch.Tensor | AdaptHubError]:
        try:
            return self._pass(parts)
        except Exception as error:
            _let_go(error)
            # Rows that may read each other's pages, written in this very pass, stay together.
            groups: dict[Selection, list[Part]] = {}
            for part in parts:
                groups.setdefault(part.row.request.adapters, []).append(part)
            if len(groups) == 1:
                return self._by_halves(parts, as_ours(error, "the pass failed"))
            results: dict[str, torch.Tensor | AdaptHubError] = {}
            for together in groups.values():
                results |= self._compute(together)
            return results

    def _by_halves(
        self, parts: Sequence[Part], error: AdaptHubError
    ) -> dict[str, torch.Tensor | AdaptHubError]:
        """Of rows on one adapter that are too many at once, those that fit. A row that fails alone ends with its own error;
        one that reads what such a row should have written in this pass, with `error`. Any other failure is everybody's.

        A row reads only pages of rows that stand before it, where all have one selection.
        """
        selections = {part.row.request.selection for part in parts}
        if not isinstance(error, OutOfMemory) or len(parts) == 1 or len(selections) > 1:
            return {part.row.request.id: error for part in parts}
        half = len(parts) // 2
        results = self._compute(parts[:half])
        failed = [
            part for part in parts[:half] if isinstance(results.get(part.row.request.id), AdaptHubError)
        ]
        unwritten = {
            page
            for held in (part.row.held for part in failed)
            for page in held.pages[held.length // self._kv.page_size :]
        }
        rest = [part for part in parts[half:] if unwritten.isdisjoint(part.row.held.pages)]
        results |= {part.row.request.id: error for part in parts[half:] if part not in rest}
        return results | (self._compute(rest) if rest else {})

    def _pass(self, parts: Sequence[Part]) -> dict[str, torch.Tensor | AdaptHubError]:
        rows = [PagedRow(part.row.held, part.count) for part in parts]
        ids = [
            token
            for part in parts
            for token in part.row.tokens[part.row.held.length : part.row.held.length + part.count]
        ]
        ends = torch.tensor([part.count for part in parts]).cumsum(0) - 1
        complete = [part for part in parts if part.completes]
        last = ends[[part.completes for part in parts]]
        with (
            torch.inference_mode(),
            memory_errors("running a step", "Lower step_tokens or max_rows."),
            self._adapted.applying(
                _segments([(part.row.request.selection, part.count) for part in parts]),
                _segments([(part.row.request.selection, 1) for part in complete]),
            ),
            paged_batch(self._kv, rows),
        ):
            logits = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=positions(rows).to(self._device),
                use_cache=False,
                logits_to_keep=last.to(self._device),
            ).logits[0]
            # Here: once the batch has ended the rows count as longer, whatever fails then.
            logits = logits.float()
        return {part.row.request.id: row for part, row in zip(complete, logits, strict=True)}


def together(results: Mapping[str, torch.Tensor | AdaptHubError]) -> Results:
    """Of each request its logits [vocabulary], or its error."""
    rows = {id: result for id, result in results.items() if isinstance(result, torch.Tensor)}
    errors = {id: result for id, result in results.items() if isinstance(result, AdaptHubError)}
    return Results([*rows], torch.stack([*rows.values()]) if rows else None, errors)


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of a failed pass still hold: its activations, which may be why it failed."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _segments(runs: Sequence[tuple[Selection, int]]) -> list[Segment]:
    """Neighbours with the same adapters as one segment; `runs`: (selection, tokens), sorted."""
    segments: list[Segment] = []
    start = 0
    for selection, count in runs:
        if segments and segments[-1].terms == selection:
            segments[-1] = Segment(segments[-1].start, start + count, selection)
        else:
            segments.append(Segment(start, start + count, selection))
        start += count
    return segments
