"""Passes of a base that reads pictures, for rows under different adapters: pixels in, logits or hidden states out.

A row is a picture, and every module whose tensors begin with the batch, [rows, ...], convolutions too, adds each row's own
adapters to it. Which modules those are is found once, by trying. Where another is adapted (windows of Swin's attention),
rows of different adapters run in passes of their own. Does not prepare pictures, attach, or make heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers.utils.generic import ModelOutput

from adapthub.adapters.delta import Segment
from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.passes import NotByToken, Rows, by_row, running
from adapthub.adapters.selections import Selection, runs
from adapthub.adapters.served_heads import Head

if TYPE_CHECKING:
    from adapthub.adapters.base import Base


class Pictures:
    """Runs pictures over `base`, whose named modules are `modules`; hooks belong to `owner`, who holds the lock. `head_of`
    gives a selection's head, None where its adapters have none."""

    def __init__(
        self,
        owner: object,
        base: Base,
        modules: Mapping[str, nn.Module],
        head_of: Callable[[Selection], Head | None],
    ) -> None:
        self._owner = owner
        self._base = base
        self._modules = modules
        self._head_of = head_of
        self._by_row: frozenset[str] | None = None

    def logits(self, pictures: Sequence[torch.Tensor], selections: Sequence[Selection]) -> list[torch.Tensor]:
        """One result a picture [channels, height, width], in order; see `AdaptedBase.image_logits`."""
        order = sorted(range(len(pictures)), key=lambda place: selections[place])
        pixels = self._batch([pictures[place] for place in order])
        results = self._run(pixels, [selections[place] for place in order])
        return [result for _, result in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]

    def _batch(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        shapes = {tuple(picture.shape) for picture in pictures}
        if len(shapes) > 1 or len(next(iter(shapes))) != 3:
            raise InvalidInput(
                f"pictures of shapes {', '.join(map(str, sorted(map(list, shapes))))} make no batch",
                hint="Prepare all of them with the base's processor.",
            )
        return torch.stack(list(pictures)).to(device=self._base.device, dtype=self._base.dtype)

    def _run(self, pixels: torch.Tensor, selections: Sequence[Selection]) -> list[torch.Tensor]:
        """Results of rows sorted by selection: from one pass, or from one a selection where a module sees no rows."""
        parts = runs(selections)
        try:
            output = self._pass(pixels, [Segment(start, stop, selections[start]) for start, stop in parts])
        except NotByToken:
            return [
                result
                for start, stop in parts
                for result in self._run(pixels[start:stop], selections[start:stop])
            ]
        results: list[torch.Tensor] = []
        for start, stop in parts:
            head, part = self._head_of(selections[start]), _rows_of(output, start, stop)
            results += part["last_hidden_state"] if head is None else head.pictures(part)
        return results

    def _pass(self, pixels: torch.Tensor, segments: Sequence[Segment]) -> ModelOutput:
        """What the backbone makes of rows [n, channels, height, width]; `segments` are runs of them."""
        differ = len({segment.terms for segment in segments}) > 1
        rows = Rows(len(pixels), self._seen(pixels) if differ else frozenset())
        with running(self._owner, segments, (len(pixels), 1), rows=rows):
            return cast(ModelOutput, self._base.model(pixel_values=pixels))

    def _seen(self, pixels: torch.Tensor) -> frozenset[str]:
        if self._by_row is None:
            self._by_row = by_row(self._base.model, self._modules, pixels[:1])
        return self._by_row


def _rows_of(output: ModelOutput, start: int, stop: int) -> ModelOutput:
    """What of a backbone's output belongs to the rows from `start` to before `stop`."""
    return type(output)(**{name: value[start:stop] for name, value in output.items()})
