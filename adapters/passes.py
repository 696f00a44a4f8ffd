"""One pass of a base as its hooks see it: which rows use which adapters, and the hook that adds what they add.

A pass is announced with `running`; hooks of other bases, and passes of other threads, do not see it. Does not choose rows,
attach, or run models.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from adapthub.adapters.delta import Segment, Update, apply_
from adapthub.adapters.entries import TokenEntries
from adapthub.adapters.errors import UnsupportedAdapter
from adapthub.adapters.siblings import family
from adapthub.adapters.stacks import Stacks

# Tokens of the pass that shows what each module sees: a length that no count of heads or experts has.
_PROBE_TOKENS = 19
# Rows of the two passes that show which modules see a batch's rows: no count of windows or heads follows both.
_PROBE_ROWS = (3, 5)

_RUNNING: ContextVar[_Running | None] = ContextVar("adapthub_running", default=None)


@dataclass(frozen=True)
class _Seen:
    """What a module sees of a pass: segments over its rows, and the leading sizes that its tensors may have."""

    segments: tuple[Segment, ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, segments: Sequence[Segment], rows: int, length: int) -> _Seen:
        return cls(tuple(segments), ((rows, length), (rows * length,)))


@dataclass(frozen=True)
class _Running:
    """The pass that runs now: whose, its tokens, and what reaches the output embeddings where that is chosen (`kept`).

    `only`: the terms that all rows share, so that whatever a module sees is theirs; None where rows differ. `rows`: a row is
    no token but a whole input.
    """

    owner: object
    tokens: _Seen
    kept: _Seen | None
    only: tuple[tuple[float, str], ...] | None
    rows: Rows | None = None


@dataclass(frozen=True)
class Rows:
    """A batch of whole inputs, pictures say, each one row of whatever a module at `paths` sees: [rows, ...]."""

    count: int
    paths: frozenset[str]


class NotByToken(Exception):
    """A module's input is not the batch's tokens (relative positions, attention heads): its rows cannot be told apart."""


@contextmanager
def running(
    owner: object,
    segments: Sequence[Segment],
    shape: tuple[int, int],
    kept: Sequence[Segment] | None = None,
    rows: Rows | None = None,
) -> Iterator[None]:
    """Within: `owner`'s hooks see `segments`, whose tokens have `shape` (rows, length), and `kept` at the output.

    With `rows` the segments are runs of a batch's rows, and `shape` is (rows, 1).
    """
    terms = {segment.terms for segment in segments}
    if terms == {()}:
        yield
        return
    last = None if kept is None else _Seen.of(kept, 1, kept[-1].stop if kept else 0)
    only = next(iter(terms)) if len(terms) == 1 else None
    token = _RUNNING.set(_Running(owner, _Seen.of(segments, *shape), last, only, rows))
    try:
        yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def running_told(
    entries: TokenEntries, modules: Mapping[str, nn.Module], output: str | None
) -> Iterator[None]:
    """Within: passes of this thread add what `entries` say under `modules`, by path; `output` is the output embeddings'.

    The modules have hooks of their own for it, whichever adapters are attached: a captured pass serves those to come.
    """
    here = threading.get_ident()  # another thread may run the model, for a prompt that it binds

    def begin(path: str, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if threading.get_ident() == here:
            entries.begin(path, args[0].reshape(-1, args[0].shape[-1]), path == output)

    def end(path: str, module: nn.Module, args: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        if threading.get_ident() == here:
            together = getattr(module, "together", None)
            waiting = {} if together is None else together.waiting(args[0])
            others = {family(path)[place]: by_token for place, by_token in _flat(waiting)}
            entries.end_(path, y.view(-1, y.shape[-1]), path == output, others)

    hooks = [module.register_forward_pre_hook(partial(begin, path)) for path, module in modules.items()]
    hooks += [module.register_forward_hook(partial(end, path)) for path, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _flat(results: Mapping[int, torch.Tensor]) -> list[tuple[int, torch.Tensor]]:
    return [(place, result.view(-1, result.shape[-1])) for place, result in results.items()]


@dataclass(frozen=True, eq=False)
class Hook:
    """A forward hook on the module at `path`, which adds `updates`; `is_output` says that it is the output embeddings.

    `channels_first`: the module's tensors are [rows, channels, ...], so that one of its rows is a batch's.
    """

    owner: object
    path: str
    updates: Mapping[str, Sequence[Update]]
    stacks: Stacks
    is_output: bool
    channels_first: bool

    def __call__(self, _: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        pass_ = _RUNNING.get()
        if pass_ is None or pass_.owner is not self.owner:
            return
        x, y = (args[0], output) if self.channels_first else _by_features(args[0], output)
        seen = pass_.kept if self.is_output and pass_.kept is not None else pass_.tokens
        if not seen.segments:  # every row is in the middle of its prompt
            return
        segments: Sequence[Segment]
        if pass_.only is not None:
            segments = [Segment(0, len(y), pass_.only)]
        elif pass_.rows is not None:
            segments = self._of_rows(seen.segments, pass_.rows, len(y))
        elif self.channels_first or output.shape[:-1] not in seen.shapes:
            raise NotByToken if pass_.kept is None else not_by_token(self.path)
        else:
            segments = self.stacks.add_(seen.segments, self.updates, x, y)
        apply_(segments, self.updates, x, y)

    def _of_rows(self, segments: Sequence[Segment], rows: Rows, length: int) -> list[Segment]:
        """Runs of a batch's rows as runs of what this module sees, `length` in all."""
        if self.path not in rows.paths:
            raise NotByToken
        width = length // rows.count
        return [Segment(start * width, stop * width, terms) for start, stop, terms in segments]


def _by_features(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with one row a token; `y` as a view."""
    rows = x.reshape(-1, x.shape[-1]) if x.is_floating_point() else x.reshape(-1)
    return rows, y.view(-1, y.shape[-1])


def by_token(model: nn.Module, modules: Mapping[str, nn.Module], device: torch.device) -> frozenset[str]:
    """Names of the modules that give one row a token in a [1, T] pass of `model`."""
    seen: dict[str, set[tuple[int, ...]]] = {}
    here = threading.get_ident()

    def note(name: str, _: nn.Module, __: Any, output: Any) -> None:
        # Another thread may be computing a prompt's keys and values for an adapter that it binds.
        if isinstance(output, torch.Tensor) and threading.get_ident() == here:
            seen.setdefault(name, set()).add(tuple(output.shape[:-1]))

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    try:
        with torch.inference_mode():
            model(input_ids=torch.arange(_PROBE_TOKENS, device=device)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(
        name for name, shapes in seen.items() if shapes <= {(1, _PROBE_TOKENS), (_PROBE_TOKENS,)}
    )


def by_row(model: nn.Module, modules: Mapping[str, nn.Module], inputs: torch.Tensor) -> frozenset[str]:
    """Names of the modules whose input and output have one row, in order, for each of a batch's in a pass of `model`.

    `inputs` is one row, [1, ...]. Found by passes of batches of two sizes.
    """
    seen: dict[str, list[bool]] = {}
    here = threading.get_ident()
    count = 0

    def note(name: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != here or not args:
            return
        both = [value for value in (args[0], output) if isinstance(value, torch.Tensor)]
        fits = len(both) == 2 and all(value.dim() > 1 and len(value) == count for value in both)
        seen.setdefault(name, []).append(fits)

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    try:
        with torch.inference_mode():
            for count in _PROBE_ROWS:
                model(inputs.expand(count, *inputs.shape[1:]))
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(name for name, fits in seen.items() if all(fits))


def not_by_token(path: str) -> UnsupportedAdapter:
    return UnsupportedAdapter(
        f"{path!r} does not see the batch's tokens one row each, so an adapter under it cannot run beside others",
        hint="Train without it, or merge the adapter into a copy of its base (PEFT's merge_and_unload) and serve that.",
    )
