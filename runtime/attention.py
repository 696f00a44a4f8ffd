"""Attention over paged keys and values: many requests, each at its own length, in one flattened [1, T] pass.

Registers an attention function, `adapthub_paged`, with transformers. Inside `paged_batch(...)` it writes the pass's keys
and values to their pages and lets every row attend to its own pages, causally, a prefix adapter's first; outside it a model
set to it computes what it computed before. Chunks of prompts and single tokens mix freely in one pass. Sliding windows,
logit softcapping (Gemma 2) and attention sinks (gpt-oss) are computed here; keys are never repeated for grouped queries.

`serves` finds out by running a model whether this is all that its attention does. Does not take or free pages, choose rows,
sample, or know adapters.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapthub.adapters import flat
from adapthub.adapters.errors import InvalidSettings
from adapthub.runtime.kv import KV, Held, LayerShape
from adapthub.runtime.paged_rows import Batch, causal_mask
from adapthub.runtime.scores import attend, weigh

ATTENTION = "adapthub_paged"
# Changes to plain attention that some families ask for by keyword and that this function does not compute.
_UNSUPPORTED = ("position_bias",)


@dataclass(frozen=True)
class PagedRow:
    """One row of a pass: `new` tokens, appended to what `held` holds."""

    held: Held
    new: int


@dataclass(frozen=True)
class Serving:
    """What the engine must know of a model that can be served.

    `shapes` and `dtype` are those of its keys and values; `context` is the most positions it takes, prefix included, None
    where its configuration sets no bound. `reads`: how many of these are an encoder's, for prompts alone, the rest being for
    what is written; None where both have the same.
    """

    shapes: tuple[LayerShape, ...]
    dtype: torch.dtype
    context: int | None
    reads: int | None = None


@contextmanager
def paged_batch(kv: KV, rows: Sequence[PagedRow]) -> Iterator[None]:
    """Within: models set to `adapthub_paged` read their [1, T] input as `rows`, in order, and write to `kv`.

    T is the sum of the rows' `new`. Each row's pages must have room for them. On leaving without an error each row's
    `held.length` has grown by `new`; after an error nothing counts as written.
    """
    with attending(partial(attend, Batch(kv, [(row.held, row.new) for row in rows]))):
        yield
    for row in rows:
        row.held.length += row.new


def positions(rows: Sequence[PagedRow]) -> torch.Tensor:
    """Position ids [1, T] of a pass's tokens: a row counts from its prefix's first token."""
    starts = [(row.held.prefix_length + row.held.length, row.new) for row in rows]
    return torch.tensor([[place for start, new in starts for place in range(start, start + new)]])


class Attend(Protocol):
    """One layer's attention of a pass, keys and values written."""

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
        """query [1, heads, T, d], key [1, kv heads, T, d], value [1, kv heads, T, dv] -> [T, heads, dv]."""


@contextmanager
def attending(attend: Attend) -> Iterator[None]:
    """Within: models set to `adapthub_paged` attend by `attend`."""
    token = _ATTEND.set(attend)
    try:
        yield
    finally:
        _ATTEND.reset(token)


_ATTEND: ContextVar[Attend | None] = ContextVar("adapthub_paged_attend", default=None)


@dataclass
class _Seen:
    """What a model asks of attention while `serves` looks: layers' shapes, windows by keyword and by mask."""

    shapes: dict[int, LayerShape] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    windows: set[int] = field(default_factory=set)
    masked_windows: set[int] = field(default_factory=set)


_SEEN: ContextVar[_Seen | None] = ContextVar("adapthub_paged_seen", default=None)


class _NotPaged(Exception):
    """This model's attention has something that the paged pass does not compute: the message says what."""


def _look(
    seen: _Seen,
    module: torch.nn.Module,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool | None,
    window: int | None,
    other: dict[str, Any],
) -> None:
    if asked := [name for name in _UNSUPPORTED if other.get(name) is not None]:
        raise _NotPaged(f"its attention asks for {', '.join(asked)}")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise _NotPaged("its attention is not causal")
    shape = LayerShape(key.shape[1], key.shape[3], value.shape[3])
    layer = cast(int, module.layer_idx)
    if seen.shapes.setdefault(layer, shape) != shape:
        raise _NotPaged(f"layer {layer} attends over keys of several shapes")
    seen.dtype = key.dtype
    if window is not None:
        seen.windows.add(window)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, T, d], key [1, kv heads, T, d] and value [1, kv heads, T, dv] -> [1, T, heads, dv]."""
    if (seen := _SEEN.get()) is not None:
        _look(seen, module, key, value, is_causal, sliding_window, other)
    attend_here = _ATTEND.get()
    scale = float(scaling if scaling is not None else query.shape[-1] ** -0.5)
    if attend_here is None:
        if softcap is None and s_aux is None:
            return cast(
                tuple[torch.Tensor, None],
                ALL_ATTENTION_FUNCTIONS[flat.ATTENTION](
                    module,
                    query,
                    key,
                    value,
                    attention_mask,
                    scaling=scaling,
                    dropout=dropout,
                    is_causal=is_causal,
                    sliding_window=sliding_window,
                    **other,
                ),
            )
        return _plain(query, key, value, attention_mask, scale, softcap, s_aux).transpose(1, 2), None
    layer = cast(int, module.layer_idx)
    output = attend_here(layer, query, key, value, scale, sliding_window, softcap, s_aux)
    return output[None], None


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """What torch's own attention would compute if it knew softcap and sinks, for a mask [B, 1, n, S] of booleans."""
    if mask is None:
        seen = causal_mask(
            range(key.shape[2] - query.shape[2], key.shape[2]), range(key.shape[2]), None, query
        )
    else:
        seen = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))[:, :, None]
    return weigh(query, [key], [value], scale, seen, softcap, sinks)


def _attention_mask(*args: Any, **kwargs: Any) -> Any:
    if (seen := _SEEN.get()) is not None and kwargs.get("local_size") is not None:
        seen.masked_windows.add(int(kwargs["local_size"]))
    if _ATTEND.get() is not None:
        return None
    return ALL_MASK_ATTENTION_FUNCTIONS[flat.ATTENTION](*args, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _attention_mask)


# Two rows: one in two chunks and a step, the other whole and a step; each pass is (row, its tokens from, to).
_TRIAL_LENGTHS = (9, 6)
_TRIAL = (((0, 0, 4),), ((1, 0, 5), (0, 4, 8)), ((0, 8, 9), (1, 5, 6)))
_TRIAL_PAGE = 2


def serves(model: PreTrainedModel) -> Serving:
    """Whether paged passes of `model` equal its plain ones, tried on two short rows, chunked and mixed.

    Leaves the model set to `adapthub_paged`. Raises InvalidSettings saying what the model does that cannot be served, and
    then the model is set as it was.
    """
    before = model.config._attn_implementation
    seen = _Seen()
    token = _SEEN.set(seen)
    try:
        with torch.inference_mode():
            _check_signature(model)
            rows = _trial_rows(model)
            # By its definition: in transformers 5.17 the other ways leave softcapping (Gemma 2) out.
            model.set_attn_implementation("eager")
            expected = [model(input_ids=row[None], use_cache=False).logits[0] for row in rows]
            model.set_attn_implementation(ATTENTION)
            if model.config._attn_implementation != ATTENTION:
                raise _NotPaged("its attention does not go through transformers' attention interface")
            model(input_ids=rows[0][None, :2], use_cache=False)
            serving = _serving(model, seen)
            for ours, theirs in _trial(model, serving, rows, expected):
                if not _close(ours, theirs):
                    raise _NotPaged("its logits differ when rows share a pass")
    except Exception as error:
        model.set_attn_implementation(before)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        # A model that is asked for something unforeseen may raise anything; it has just run plainly.
        reason = str(error) if isinstance(error, _NotPaged) else f"{type(error).__name__}: {error}"
        raise InvalidSettings(
            f"{type(model).__name__} cannot generate here: {reason}",
            hint="Choose a base whose attention goes through transformers' attention interface, such as Llama or Qwen.",
        ) from error
    finally:
        _SEEN.reset(token)
    return serving


def look(model: PreTrainedModel) -> Serving:
    """What `serves` would find out of the shapes, from one short pass; proves nothing, and so takes a model without weights.

    Raises InvalidSettings for what cannot be served whatever its weights.
    """
    seen = _Seen()
    token = _SEEN.set(seen)
    try:
        with torch.inference_mode():
            _check_signature(model)
            model.set_attn_implementation(ATTENTION)
            ids = torch.ones(1, 2, dtype=torch.long, device=model.device)
            # Made here: making one reads values, and there may be none.
            mask = torch.ones(1, 1, 2, 2, dtype=torch.bool, device=model.device)
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            return _serving(model, seen)
    except (_NotPaged, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise InvalidSettings(f"{type(model).__name__} cannot generate here: {error}") from error
    finally:
        _SEEN.reset(token)


def _check_signature(model: PreTrainedModel) -> None:
    if model.config.is_encoder_decoder:
        raise _NotPaged("it has an encoder beside its decoder")
    if getattr(model, "_is_stateful", False):
        raise _NotPaged("it keeps a recurrent state between tokens")
    takes = set(inspect.signature(model.forward).parameters)
    if missing := [name for name in ("position_ids", "logits_to_keep") if name not in takes]:
        raise _NotPaged(f"its forward does not take {' and '.join(missing)}")


def _trial_rows(model: PreTrainedModel) -> list[torch.Tensor]:
    vocabulary = int(cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings)
    pad = getattr(model.config, "pad_token_id", None)
    rows = [[(7 * i + 11 * n) % vocabulary for i in range(n)] for n in _TRIAL_LENGTHS]
    return [
        torch.tensor([(i + 1) % vocabulary if i == pad else i for i in row], device=model.device)
        for row in rows
    ]


def _serving(model: PreTrainedModel, seen: _Seen) -> Serving:
    layers = int(model.config.get_text_config().num_hidden_layers)
    if sorted(seen.shapes) != list(range(layers)):
        raise _NotPaged(
            f"only {len(seen.shapes)} of its {layers} layers attend through transformers' interface"
        )
    if hidden := seen.masked_windows - seen.windows:
        raise _NotPaged(f"only its mask knows of a window or chunk of {max(hidden)} tokens")
    assert seen.dtype is not None
    return Serving(tuple(seen.shapes[i] for i in range(layers)), seen.dtype, _context(model))


def _context(model: PreTrainedModel) -> int | None:
    """Positions that mean the same whatever the neighbours.

    Rotary embeddings that change with the longest row of a pass are served up to where they change.
    """
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if parameters.get("rope_type") == "longrope":
            original = parameters.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            longest = min(filter(None, (original, longest)), default=None)
    return None if longest is None else int(longest)


def _trial(
    model: PreTrainedModel, serving: Serving, rows: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The paged passes' logits at every chunk's last token, with the plain ones."""
    kv = KV(serving.shapes, 8, _TRIAL_PAGE, model.device, serving.dtype)
    held = [Held(pages=[0, 1, 4, 5, 2]), Held(pages=[7, 3, 6])]
    for chunks in _TRIAL:
        paged = [PagedRow(held[row], stop - start) for row, start, stop in chunks]
        ids = torch.cat([rows[row][start:stop] for row, start, stop in chunks])
        last = torch.tensor([row.new for row in paged], device=model.device).cumsum(0) - 1
        places = positions(paged).to(model.device)
        with paged_batch(kv, paged):
            logits = model(
                input_ids=ids[None], position_ids=places, use_cache=False, logits_to_keep=last
            ).logits
        for ours, (row, _, stop) in zip(logits[0], chunks, strict=True):
            yield ours, expected[row][stop - 1]


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    # About their means, which many models share over all positions. Another mask or position moves logits by about their
    # own length, rounding does not.
    tolerance = 1e-3 if theirs.dtype == torch.float32 else 0.1
    ours, theirs = ours.double() - ours.double().mean(), theirs.double() - theirs.double().mean()
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())
