"""The tokens of beginnings of texts, each as it would be tokenised alone, without tokenising each.

A tokenizer takes its special tokens out of a text first and tokenises what is between them apart: so a beginning has the
tokens of the whole text before its last special token, and those of the rest from there on, which in conversations is short
and the same again and again. Does not know templates or turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokens_of_beginnings(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ends: Sequence[Sequence[int]]
) -> list[list[list[int]]]:
    """For each text, and each of its `ends` in characters, the token ids of the text up to there, no special ones added."""
    if not tokenizer.is_fast or tokenizer.split_special_tokens:
        return [
            [_ids(tokenizer, [text[:end]])[0] for end in its] for text, its in zip(texts, ends, strict=True)
        ]
    markers = {
        at: token.content for at, token in tokenizer.added_tokens_decoder.items() if _is_cut_out(token)
    }
    encodings: Any = tokenizer([*texts], add_special_tokens=False, verbose=False).encodings
    known: dict[str, list[int]] = {}
    found = []
    for text, its, encoding in zip(texts, ends, encodings, strict=True):
        ids: list[int] = encoding.ids
        present = [(markers[at], at) for at in {*ids} & markers.keys()]
        found.append(
            [
                ids if end == len(text) else _beginning(tokenizer, text, end, ids, encoding, present, known)
                for end in its
            ]
        )
    return found


def _beginning(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    end: int,
    ids: list[int],
    encoding: Any,
    markers: Sequence[tuple[str, int]],
    known: dict[str, list[int]],
) -> list[int]:
    """`ids` and `encoding`: the whole text's; `markers`: its special tokens; `known`: rests that were tokenised before."""
    start, marker = max(((text.rfind(content, 0, end), at) for content, at in markers), default=(-1, -1))
    place = encoding.char_to_token(start) if start >= 0 else None
    if place is None or ids[place] != marker or encoding.token_to_chars(place)[0] != start:
        return _ids(tokenizer, [text[:end]])[0]  # there is none, or it is part of another
    rest = text[start:end]
    if rest not in known:
        known[rest] = _ids(tokenizer, [rest])[0]
    return ids[:place] + known[rest]


def _is_cut_out(token: Any) -> bool:
    """Whether it is found in a text whatever stands around it."""
    return bool(token.special and not (token.normalized or token.single_word or token.lstrip))


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return list(tokenizer([*texts], add_special_tokens=False, verbose=False)["input_ids"])
