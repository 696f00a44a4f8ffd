"""One request's tokens as text, piece by piece: whole characters only, and cut before a stop string.

Does not choose tokens or know why generation ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

_UNDECODED = "\N{REPLACEMENT CHARACTER}"
# What single tokens of a tokenizer are as a text of their own: wanted for every token, whoever's.
_ALONE: WeakKeyDictionary[PreTrainedTokenizerBase, dict[int, str]] = WeakKeyDictionary()


class TextStream:
    """Turns tokens into text as they come; the concatenation of what `push` and `finish` return is `text`.

    Special tokens are left out. Without stop strings the text is what the tokenizer makes of all tokens at once; only where
    tokens spell bytes that are not UTF-8 may the number of replacement characters differ. A stop string is looked for
    over the borders of tokens, but not within the first `unsearched` tokens; of several the one that is complete first
    counts. What may be the beginning of one is held back.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), unsearched: int = 0
    ) -> None:
        self.text = ""
        self.stopped = False
        self._decoder = _Decoder(tokenizer)
        self._stop = tuple(stop)
        self._unsearched = unsearched
        self._held = ""

    def push(self, token_id: int) -> str:
        """The text that this token completes; "" while a character or a stop string may be unfinished, or once stopped."""
        if self.stopped:
            return ""
        new = self._decoder.push(token_id)
        if self._unsearched > 0:
            self._unsearched -= 1
            return self._give(new)
        return self._search(new)

    def finish(self) -> str:
        """The text still held back, once no token follows."""
        if self.stopped:
            return ""
        rest = self._search(self._decoder.finish())
        held, self._held = self._held, ""
        return rest + self._give(held)

    def _search(self, new: str) -> str:
        if not self._stop:
            return self._give(new)
        text = self._held + new
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return self._give(text[: min(found)[1]])
        kept = beginning(text, self._stop)
        self._held = text[len(text) - kept :]
        return self._give(text[: len(text) - kept])

    def _give(self, new: str) -> str:
        self.text += new
        return new


class _Decoder:
    """Detokenises step by step.

    A token's text can depend on the one before (blanks, word pieces) and a character can span tokens, so each step
    decodes the last tokens whose text is out (`_context`) with those whose text is not (`_pending`). tokenizers'
    DecodeStream works like this but fails on bytes that are not UTF-8 and keeps what is unfinished to itself at the end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._alone = _ALONE.setdefault(tokenizer, {})
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []
        self._given = 0  # characters of the pending tokens' text that are out

    def push(self, token_id: int) -> str:
        self._pending.append(token_id)
        text = self._pending_text()
        whole = text.rstrip(_UNDECODED)
        new = whole[self._given :]
        if text and whole == text:
            self._context, self._pending, self._given = self._pending, [], 0
            self._context_text = self._text_alone(self._context)
        else:
            self._given = max(self._given, len(whole))
        return new

    def finish(self) -> str:
        return self._pending_text()[self._given :]

    def _pending_text(self) -> str:
        text = self._decode(self._context + self._pending)
        if text.startswith(self._context_text):
            return text[len(self._context_text) :]
        # Byte fallback spoils a whole run of byte tokens if one of them is not UTF-8, also what is out already.
        return self._decode(self._pending)

    def _text_alone(self, ids: list[int]) -> str:
        if len(ids) > 1:
            return self._decode(ids)
        if ids[0] not in self._alone:
            self._alone[ids[0]] = self._decode(ids)
        return self._alone[ids[0]]

    def _decode(self, ids: list[int]) -> str:
        return cast(str, self._tokenizer.decode(ids, skip_special_tokens=True))


def beginning(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` are the longest beginning of a stop string."""
    longest = min(max(map(len, stops)) - 1, len(text))
    return next(
        (size for size in range(longest, 0, -1) if any(stop.startswith(text[-size:]) for stop in stops)), 0
    )
