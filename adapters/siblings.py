"""Layers that read the same input one after the other (q, k and v; gate and up): computed together by the first of them.

The first layer of a group that is asked computes for all, and the others hand out what is there: each result once, to the
thread and for the very tensor that it was computed of. So a model's own code runs as it is written.

Knows such layers by their names. Does not compute, or know what kind of layers they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch

Layer = TypeVar("Layer")
_IN_VAIN = 3
# Names within one parent, in the order in which their parent calls them.
_FAMILIES = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"))


def family(path: str) -> tuple[str, ...]:
    """The paths that belong together with this one, itself among them; none for a layer of no family."""
    parent, dot, name = path.rpartition(".")
    found = next((names for names in _FAMILIES if name in names), ())
    return tuple(f"{parent}{dot}{other}" for other in found)


def groups(paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Those of `paths` that belong together, two or more each, in the order of their family."""
    known = set(paths)
    families = dict.fromkeys(family(path) for path in sorted(known))
    found = (tuple(path for path in paths if path in known) for paths in families)
    return [group for group in found if len(group) > 1]


class Together(Generic[Layer]):
    """One group's results. `compute` gives every layer's for an input, or None where they are not worth computing at once.

    A group whose parent turns out to ask otherwise (keys of another input, say) is left to compute one by one.
    """

    def __init__(
        self, layers: Sequence[Layer], compute: Callable[[torch.Tensor], Sequence[torch.Tensor] | None]
    ) -> None:
        self.layers = tuple(layers)
        self._compute = compute
        self._in_vain = 0  # times in a row that results were not asked for
        # By thread: another may run the model for an adapter that it binds.
        self._waiting: dict[int, tuple[torch.Tensor, dict[int, torch.Tensor]]] = {}

    def of(self, layer: Layer, x: torch.Tensor) -> torch.Tensor | None:
        """The layer's result for x; None where it must be computed alone."""
        place = next(place for place, other in enumerate(self.layers) if other is layer)
        waiting = self.waiting(x)
        if place:
            result = waiting.pop(place, None)
            if result is not None and not waiting:
                del self._waiting[threading.get_ident()]
                self._in_vain = 0
            return result
        if self._waiting.pop(threading.get_ident(), None) is not None:
            self._in_vain += 1
        results = None if self._in_vain >= _IN_VAIN else self._compute(x)
        if results is None:
            return None
        first, *others = results
        self._waiting[threading.get_ident()] = x, dict(enumerate(others, start=1))
        return first

    def waiting(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """Results by a layer's place in the group that were computed of x and not handed out yet, in this thread."""
        source, waiting = self._waiting.get(threading.get_ident(), (None, {}))
        return waiting if source is x else {}
