"""What single-pass tasks answer: texts to rows, and logits to entities, labels and scores.

Does not run the model (adapters.attach does), resolve names or hold state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from adapthub.adapters.answers import LONGEST_ANSWER, Window, best_answers, encode_windows
from adapthub.adapters.errors import InvalidInput, InvalidSettings
from adapthub.adapters.heads import (
    FEATURE_EXTRACTION,
    QUESTION_ANSWERING,
    TEXT_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from adapthub.adapters.pooling import MEAN
from adapthub.adapters.processors import takes_pictures
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION
from adapthub.adapters.words import LabelToken, encode_words, split_words
from adapthub.runtime.entities import decode_entities
from adapthub.runtime.pictures import Picture, read_picture
from adapthub.runtime.predictions import AnswerSpan, Entity, Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapthub.adapters.base import Base


_WINDOW = 384  # tokens of a window, where nothing bounds them: as in BERT's script for SQuAD


@dataclass(frozen=True)
class TokenIds:
    """A text that the caller has tokenised already, special tokens included where the base wants them."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """Two texts that are read together, such as a premise and a hypothesis; where they are too long, the first is cut.

    For question answering a question and its context, of which nothing is cut: a long one is read in several windows.
    """

    first: str
    second: str


@dataclass(frozen=True)
class Passage:
    """A text that shall be found by others, which adapters for retrieval may read otherwise than what is asked for."""

    text: str


Text = str | Sequence[str] | Pair | Passage


@dataclass(frozen=True)
class Reading:
    """How an adapter reads text and what its outputs are called; learnt from its manifest, or assumed without one.

    `threshold`: where any number of labels may hold at once, the probability above which one does; else None. Question
    answering: `stride`, tokens that windows of a context share, `longest_answer`, tokens of an answer at most, `no_answer`,
    whether there may be none, and by how much that must beat the best answer (answers.best_answers). Retrieval: `prefixes`
    of what is asked for and of passages. `pooling`: how last hidden states become a vector (adapters.pooling).
    """

    task: str | None
    labels: tuple[str, ...]
    label_token: LabelToken
    max_length: int | None
    threshold: float | None = None
    stride: int | None = None
    longest_answer: int = LONGEST_ANSWER
    no_answer: bool = False
    no_answer_threshold: float = 0.0
    prefixes: tuple[str, str] = ("", "")
    pooling: str = MEAN


@dataclass(frozen=True)
class Row:
    """One text as the model sees it, or a picture by its name. For token classification, character spans of words and their
    sub-tokens; for question answering a window of the context, which is then `text`."""

    text: str
    features: Mapping[str, Any]
    truncated: bool
    spans: Sequence[tuple[int, int]] = ()
    positions: Sequence[int] = ()
    window: Window | None = None


def check_texts(texts: object) -> None:
    """Raises InvalidInput for what is no sequence of texts. A text alone is not: its characters would be the rows."""
    if isinstance(texts, str):
        raise InvalidInput("a text stands where a list of texts is wanted", hint="Write [text].")
    if isinstance(texts, (bytes, bytearray, Mapping, Set)) or not hasattr(texts, "__len__"):
        raise InvalidInput(f"{_kind(texts)} stands where a list of texts is wanted", hint="Write [text].")


@dataclass(frozen=True)
class WordLabel:
    """The likeliest label of one word, `text[start:end]` of the row, and its probability. `index`: of its sub-token."""

    label: str
    score: float
    start: int
    end: int
    index: int


def read_rows(
    text: Text | TokenIds | Picture, reading: Reading, base: Base, longest: int | None, place: int
) -> list[Row]:
    """The rows of one text: windows for question answering, else one. As `read_text`."""
    if reading.task != QUESTION_ANSWERING:
        return [read_text(text, reading, base, longest, place)]
    if not isinstance(text, Pair) or base.tokenizer is None:
        raise InvalidInput(
            f"text {place} is no question with a context", hint="Give Pair(question, context)."
        )
    for part in (text.first, text.second):
        _filled(part, place)
    length = _limit(reading, base.tokenizer.model_max_length, longest) or _WINDOW
    stride = length // 3 if reading.stride is None else reading.stride
    (windows,) = encode_windows(
        base.tokenizer, [text.first], [text.second], [f"text {place}"], max_length=length, stride=stride
    )
    return [Row(text.second, window.features, truncated=False, window=window) for window in windows]


def read_text(
    text: Text | TokenIds | Picture, reading: Reading, base: Base, longest: int | None, place: int
) -> Row:
    """Tokenise one text, a pair, or one list of words for token classification, up to `longest` tokens; prepare a picture.

    Raises InvalidInput, naming the text's `place`, for what is no text or has no token, and for token ids that the base
    does not have or that are more than `longest`; and for a picture that does not decode.
    """
    pictures = takes_pictures(base.model.config)
    if isinstance(text, Picture):
        if not pictures:
            raise text.not_here(place)
        return Row(*read_picture(text, base, place), truncated=False)
    if pictures:
        raise InvalidInput(
            f"input {place} is {_kind(text)}, not a picture",
            hint="A picture is a pathlib.Path, bytes, or an image of Pillow.",
        )
    if isinstance(text, TokenIds):
        return _given(text.ids, base, longest, place)
    tokenizer = base.tokenizer
    if tokenizer is None:
        raise InvalidSettings(f"{base.ref} has no tokenizer, so it cannot read text")
    if reading.task == FEATURE_EXTRACTION and isinstance(text, (str, Passage)):
        text = _prefixed(text, reading, place)
    elif isinstance(text, Passage):
        text = text.text
    if isinstance(text, Pair):
        return _read_pair(text, tokenizer, _limit(reading, tokenizer.model_max_length, longest), place)
    _check_text(text, place)
    limit = _limit(reading, tokenizer.model_max_length, longest)
    if reading.task == TOKEN_CLASSIFICATION:
        text, words, spans = _words(text)
        if not words:
            raise InvalidInput(f"text {place} has no word", hint="Leave it out.")
        encoded = encode_words(tokenizer, [words], label_token=reading.label_token, max_length=limit)[0]
        return Row(text, encoded.features, encoded.truncated, spans, encoded.positions)
    filled = _filled(text, place)
    batch = tokenizer(filled, truncation=limit is not None, max_length=limit, return_attention_mask=False)
    truncated = bool(batch.encodings and batch.encodings[0].overflowing)
    return Row(filled, dict(batch), truncated)


def predict_row(
    row: Row, logits: torch.Tensor, reading: Reading, adapter: str | None, digests: tuple[str, ...]
) -> Prediction:
    """Turn one row's raw outputs into what the task means."""
    if reading.task not in (TOKEN_CLASSIFICATION, TEXT_CLASSIFICATION, IMAGE_CLASSIFICATION):
        return Prediction(
            adapter, digests, reading.task, row.truncated, features=logits, pooling=reading.pooling
        )
    if reading.task == TOKEN_CLASSIFICATION:
        entities = _entities(row, word_labels(row, logits, reading.labels), reading.labels)
        return Prediction(adapter, digests, reading.task, row.truncated, entities=entities)
    scores = dict(zip(reading.labels, probabilities(logits, reading).tolist(), strict=True))
    if reading.threshold is not None:
        held = tuple(label for label, score in scores.items() if score > reading.threshold)
        return Prediction(adapter, digests, reading.task, row.truncated, labels=held, scores=scores)
    label = max(scores, key=scores.__getitem__)
    return Prediction(
        adapter,
        digests,
        reading.task,
        row.truncated,
        label=label,
        labels=(label,),
        score=scores[label],
        scores=scores,
    )


def predict_answers(
    rows: Sequence[Row],
    logits: Sequence[torch.Tensor],
    reading: Reading,
    *,
    top: int = 1,
    longest: int | None = None,
    no_answer: bool | None = None,
) -> tuple[AnswerSpan, ...]:
    """The `top` answers of at most `longest` tokens that one question's windows give, the likeliest first; logits [T, 2].

    `longest` is by default what the adapter's training had; `no_answer`: whether "there is none" is among them; by default
    where the adapter was trained on such questions.
    """
    windows = [row.window for row in rows if row.window is not None]
    may_have_none = reading.no_answer if no_answer is None else no_answer
    outputs = [each.numpy() for each in logits]
    found = best_answers(
        windows,
        outputs,
        top=top,
        longest=longest or reading.longest_answer,
        answerable=not may_have_none,
        threshold=reading.no_answer_threshold,
    )
    context = rows[0].text
    spans = [AnswerSpan(context[s.start : s.end], s.start, s.end, s.score) for s in found.spans]
    if may_have_none or not spans:  # a context of invisible characters has no token
        spans.append(AnswerSpan("", 0, 0, found.none))
    return tuple(sorted(spans, key=lambda span: -span.score)[:top])


def probabilities(logits: torch.Tensor, reading: Reading) -> torch.Tensor:
    """A text's probability of each label: by sigmoid where any number may hold at once, else by softmax."""
    return logits.softmax(-1) if reading.threshold is None else logits.sigmoid()


def word_labels(row: Row, logits: torch.Tensor, labels: Sequence[str]) -> list[WordLabel]:
    """The likeliest label of every word of `row` that was read, in order; `logits` [T, labels]."""
    read = [
        (position, span) for position, span in zip(row.positions, row.spans, strict=True) if position >= 0
    ]
    scores, best = logits[[position for position, _ in read]].softmax(-1).max(-1)
    return [
        WordLabel(labels[label], score, start, end, position)
        for (position, (start, end)), label, score in zip(read, best.tolist(), scores.tolist(), strict=True)
    ]


def _given(ids: Sequence[int], base: Base, longest: int | None, place: int) -> Row:
    """Token ids as they are; what is too long is not cut, as nobody knows which tokens matter."""
    size = base.model.config.get_text_config().vocab_size
    wrong = next((id for id in ids if not 0 <= id < size), None)
    if wrong is not None:
        raise InvalidInput(f"input {place} has the token id {wrong}", hint=f"This base has 0 to {size - 1}.")
    if not ids or (longest is not None and len(ids) > longest):
        raise InvalidInput(
            f"input {place} has {len(ids)} tokens", hint=f"This model takes 1 to {longest or 'any number'}."
        )
    return Row("", {"input_ids": ids}, truncated=False)


def _prefixed(text: str | Passage, reading: Reading, place: int) -> str:
    """With what training put before a text of its kind. Raises InvalidInput for an empty one."""
    prefix, plain = (
        (reading.prefixes[1], text.text) if isinstance(text, Passage) else (reading.prefixes[0], text)
    )
    return prefix + _filled(plain, place)


def _filled(text: object, place: int) -> str:
    """A text that is not empty. Raises InvalidInput."""
    _check_text(text, place)
    if not isinstance(text, str):
        raise InvalidInput(f"text {place} is a list of words", hint="Only token classification takes words.")
    if not text.strip():
        raise InvalidInput(f"text {place} is empty", hint="Leave it out.")
    return text


def _read_pair(pair: Pair, tokenizer: PreTrainedTokenizerBase, limit: int | None, place: int) -> Row:
    for text in (pair.first, pair.second):
        _filled(text, place)
    batch = tokenizer(
        pair.first,
        pair.second,
        truncation="only_first" if limit is not None else False,
        max_length=limit,
        return_attention_mask=False,
    )
    truncated = bool(batch.encodings and batch.encodings[0].overflowing)
    return Row(pair.first, dict(batch), truncated)


def _check_text(text: object, place: int) -> None:
    """A str, or a sequence of words that are str and not empty; all of it what UTF-8 can write."""
    if isinstance(text, str):
        _check_unicode(text, f"text {place}")
        return
    if isinstance(text, (bytes, bytearray)):
        raise InvalidInput(f"text {place} is bytes, not str", hint="Decode it: text.decode('utf-8').")
    if not isinstance(text, Sequence):
        raise InvalidInput(
            f"text {place} is {_kind(text)}, not str",
            hint="A text is a str, or for token classification its words.",
        )
    for number, word in enumerate(text):
        if not isinstance(word, str):
            raise InvalidInput(f"text {place}: word {number} is {_kind(word)}, not str")
        if not word.strip():
            raise InvalidInput(f"text {place}: word {number} is empty", hint="Leave it out.")
        _check_unicode(word, f"text {place}: word {number}")


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{where} is not valid Unicode: character {error.start} is half of a pair", hint="Send UTF-8."
        ) from error


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _limit(reading: Reading, tokenizer_takes: int, longest: int | None) -> int | None:
    """Tokens of one row: what the adapter was trained with, within what the base takes; for words all that it takes."""
    within = min(tokenizer_takes, 1 << 20 if longest is None else longest)
    if reading.max_length is not None and reading.task != TOKEN_CLASSIFICATION:
        return min(within, reading.max_length)
    return within if within < 1 << 20 else None


def _words(text: str | Sequence[str]) -> tuple[str, list[str], list[tuple[int, int]]]:
    if isinstance(text, str):
        spans = split_words(text)
        return text, [text[start:end] for start, end in spans], spans
    spans, at = [], 0
    for word in text:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return " ".join(text), list(text), spans


def _entities(row: Row, words: Sequence[WordLabel], labels: Sequence[str]) -> tuple[Entity, ...]:
    entities = []
    for first, stop, kind in decode_entities([word.label for word in words], labels):
        start, end = words[first].start, words[stop - 1].end
        score = fmean(word.score for word in words[first:stop])
        entities.append(Entity(row.text[start:end], kind, start, end, score))
    return tuple(entities)
