"""Extractive question answering: a question and a context as windows, and logits of windows as the best spans.

A context that is too long is read in windows that overlap; the best span of all of them wins, and "no answer" is what every
window's first token says (Devlin et al. 2019, section 4.3; Rajpurkar et al. 2018). Training, evaluation and serving share
it. Does not run models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unicodedata import combining

import numpy as np

from adapthub.adapters.errors import InvalidInput, InvalidSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    Floats = NDArray[np.floating[Any]]

NULL = 0
"""The token whose logits stand for "no answer in this window": the first, which is [CLS] where the base has one."""

LONGEST_ANSWER = 30
"""Tokens of an answer, at most: as in BERT's and transformers' SQuAD scripts."""


@dataclass(frozen=True, eq=False)
class Window:
    """One piece of a context with its question. `features`: `input_ids` alone. Token types are left out, because PEFT's
    model for question answering drops them (PeftModelForQuestionAnswering.forward, 0.21): both sides of a pair are 0 there,
    so they are here.

    `spans` [T, 2], int32: the characters [start, end) of the context that token t is, as `_fit` has them; -1 for tokens of
    the question and the special ones.
    """

    features: dict[str, list[int]]
    spans: NDArray[np.int32]


@dataclass(frozen=True)
class Span:
    """The characters [start, end) of a context, and the probability of that answer among all and none."""

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Answers:
    """What the windows of one context say: the likeliest spans first, and the probability that there is no answer.

    `none_by`: how much more than the best span "no answer" scores, threshold taken off: there is none where that is above 0.
    """

    spans: tuple[Span, ...]
    none: float
    none_by: float


def encode_windows(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    names: Sequence[str],
    *,
    max_length: int,
    stride: int,
) -> list[list[Window]]:
    """For each question its windows of at most `max_length` tokens; neighbours share `stride` tokens of the context.

    Raises InvalidInput, by the question's name in `names`, where it leaves less than that room, InvalidSettings for a
    tokenizer that does not track characters.
    """
    if not tokenizer.is_fast:
        raise InvalidSettings(
            "the base's tokenizer does not say which characters a token is", hint="Choose another base model."
        )
    most = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    for name, ids in zip(
        names, tokenizer(list(questions), add_special_tokens=False)["input_ids"], strict=True
    ):
        if most - len(ids) <= stride:
            room = max(most - len(ids), 0)
            raise InvalidInput(
                f"{name}: the question has {len(ids)} tokens, which leaves {room} of {max_length} for the context",
                hint=f"Shorten it; windows of the context overlap by {stride}.",
            )
    batch = tokenizer(
        list(questions),
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    windows: list[list[Window]] = [[] for _ in questions]
    for at, question in enumerate(batch["overflow_to_sample_mapping"]):
        spans = np.array(batch["offset_mapping"][at], dtype=np.int32)
        spans[[part != 1 for part in batch.sequence_ids(at)]] = -1
        _fit(spans, contexts[question])
        windows[question].append(Window({"input_ids": batch["input_ids"][at]}, spans))
    return windows


def read_part(windows: Sequence[Window], start: int, end: int) -> tuple[int, int] | None:
    """The characters [start, end) of a context without those at both ends that no token of its windows is: tokenizers may
    drop marks, spaces and what is invisible. None where nothing is left."""
    spans = np.concatenate([window.spans[_inside(window, start, end)] for window in windows])
    if not len(spans):
        return None
    return max(start, int(spans[:, 0].min())), min(end, int(spans[:, 1].max()))


def find_tokens(window: Window, start: int, end: int) -> tuple[int, int] | None:
    """The first and last token of the characters [start, end); None where the window does not hold all of them."""
    inside = _inside(window, start, end)
    if not len(inside):
        return None
    first, last = int(inside[0]), int(inside[-1])
    whole = window.spans[first, 0] <= start and window.spans[last, 1] >= end
    return (first, last) if whole else None


def best_answers(
    windows: Sequence[Window],
    logits: Sequence[Floats],
    *,
    top: int = 1,
    longest: int = LONGEST_ANSWER,
    answerable: bool = False,
    threshold: float = 0.0,
) -> Answers:
    """The `top` spans of at most `longest` tokens by start logit + end logit, over all windows; logits [tokens, 2] each.

    Probabilities are a softmax over every allowed span of every window, and, unless `answerable`, "no answer": the least of
    the windows' null scores (Devlin et al. 2019) less `threshold`, so that there is none where it is likelier than any span.
    """
    null = -np.inf if answerable else min(float(each[NULL].sum()) for each in logits) - threshold
    totals, candidates = [null], list[tuple[int, int, float]]()
    for window, each in zip(windows, logits, strict=True):
        scores = _span_scores(window, each, longest)
        totals.append(float(np.logaddexp.reduce(scores[scores > -np.inf], initial=-np.inf)))
        candidates += _likeliest(window, scores, top)
    total = float(np.logaddexp.reduce(totals))
    if total == -np.inf:
        return Answers((), 0.0, np.inf)
    found: dict[tuple[int, int], float] = {}
    for start, end, score in candidates:
        found[start, end] = max(found.get((start, end), 0.0), float(np.exp(score - total)))
    best = sorted(found.items(), key=lambda item: -item[1])[:top]
    spans = tuple(Span(*place, score) for place, score in best)
    none_by = null - max(score for _, _, score in candidates) if candidates else np.inf
    return Answers(spans, float(np.exp(null - total)), none_by)


def _inside(window: Window, start: int, end: int) -> NDArray[np.intp]:
    """The tokens that are some of the characters [start, end)."""
    spans = window.spans
    filled = (spans[:, 0] >= 0) & (spans[:, 0] < spans[:, 1])
    return np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > start) & filled)


def _fit(spans: NDArray[np.int32], context: str) -> None:
    """Narrow spans, in place, to what is no white space, and widen them over the marks of their last letter: some tokenizers
    take spaces into their tokens, others (BERT's) drop accents that are characters of their own."""
    blank = np.fromiter(map(str.isspace, context), dtype=bool, count=len(context))
    filled = spans[:, 0] < spans[:, 1]
    while len(at := np.flatnonzero(filled)[blank[spans[filled, 0]]]):
        spans[at, 0] += 1
        filled = spans[:, 0] < spans[:, 1]
    while len(at := np.flatnonzero(filled)[blank[spans[filled, 1] - 1]]):
        spans[at, 1] -= 1
    if context.isascii():
        return
    marks = np.fromiter((combining(character) > 0 for character in context), dtype=bool, count=len(context))
    marks = np.append(marks, False)
    while len(at := np.flatnonzero(filled)[marks[spans[filled, 1]]]):
        spans[at, 1] += 1


def _span_scores(window: Window, logits: Floats, longest: int) -> Floats:
    """[tokens, tokens]: start logit + end logit of every span, -inf for what is none."""
    size = len(window.spans)
    inside = (window.spans[:, 0] >= 0) & (window.spans[:, 0] < window.spans[:, 1])
    at = np.arange(size)
    width = at[None] - at[:, None]
    allowed = inside[:, None] & inside[None] & (width >= 0) & (width < longest)
    start, end = logits[:, 0].astype(np.float64), logits[:, 1].astype(np.float64)
    return np.where(allowed, start[:, None] + end[None], -np.inf)


def _likeliest(window: Window, scores: Floats, top: int) -> Iterator[tuple[int, int, float]]:
    """(first character, end character, score) of a window's best spans."""
    flat = scores.ravel()
    count = min(top, flat.size)
    for place in np.argpartition(-flat, count - 1)[:count]:
        first, last = divmod(int(place), scores.shape[1])
        if flat[place] > -np.inf:
            yield int(window.spans[first, 0]), int(window.spans[last, 1]), float(flat[place])
