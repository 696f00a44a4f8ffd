"""What a request asks of its tokens, checked; and what comes of that: a chosen token, a place in a grammar.

Plain data. Does not choose tokens (sampler does) or compile grammars (constraints does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from adapthub.adapters.errors import InvalidInput

_MOST_STOPS, _LONGEST_STOP, _MOST_STOP_IDS = 16, 256, 64
_LARGEST_ID = 2**31 - 1
_WHOLE = {  # field: lowest, highest
    "max_new_tokens": (1, 2**31 - 1),
    "min_new_tokens": (0, 2**31 - 1),
    "top_k": (0, 2**31 - 1),
    "seed": (-(2**63), 2**63 - 1),
    "n": (1, 128),
    "logprobs": (0, 20),
}
_REAL = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
_ABOVE_ZERO = ("top_p", "repetition_penalty")
# Fields of which at most one says what language the text belongs to.
GRAMMARS = ("json_schema", "regex", "grammar")


@dataclass(frozen=True)
class Sampling:
    """How one request's tokens are chosen. Raises InvalidInput, naming field, value and what is allowed.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `repetition_penalty` is transformers' (over
    prompt and generated tokens, or those that a decoder reads), 1 is off; None is the generation configuration's of an
    encoder-decoder, else 1. `presence_penalty` and `frequency_penalty` are OpenAI's (over generated tokens).
    `min_new_tokens`: before that many, no end token, stop id or stop string ends the text. `stop` cuts the text before
    the first of its strings. `ignore_eos`: only lengths and stops end the text. `n` choices, each with its own seed:
    `seed` + its index. `logprobs`: that many alternatives a token, 0 for the chosen one alone. At most one of
    `json_schema` (a schema or its JSON text), `regex` (the whole text must match) and `grammar` (Lark).
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None
    json_schema: Mapping[str, object] | str | None = None
    regex: str | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        for field, (low, high) in _WHOLE.items():
            value = getattr(self, field)
            if value is None and field in ("seed", "logprobs"):
                continue
            if not _is_whole(value) or not low <= value <= high:
                raise InvalidInput(f"{field} = {value!r}", hint=f"A whole number from {low} to {high}.")
        for field, (lowest, highest) in _REAL.items():
            value = getattr(self, field)
            if value is None and field == "repetition_penalty":
                continue
            open_ended = field in _ABOVE_ZERO
            if (
                not (isinstance(value, float) or _is_whole(value))
                or not lowest <= value <= highest
                or (open_ended and value == 0)
            ):
                reach = f"above 0, at most {highest:g}" if open_ended else f"from {lowest:g} to {highest:g}"
                raise InvalidInput(f"{field} = {value!r}", hint=f"A number {reach}.")
        if self.min_new_tokens > self.max_new_tokens:
            raise InvalidInput(
                f"min_new_tokens = {self.min_new_tokens}",
                hint=f"At most max_new_tokens, {self.max_new_tokens}.",
            )
        self._check_stops()
        self._check_grammar()

    def _check_stops(self) -> None:
        for field in ("stop", "stop_token_ids"):
            value = getattr(self, field)
            if not isinstance(value, (list, tuple)):
                raise InvalidInput(f"{field} = {value!r}", hint="Give a list.")
            object.__setattr__(self, field, tuple(value))
        if len(self.stop) > _MOST_STOPS:
            raise InvalidInput(f"stop has {len(self.stop)} strings", hint=f"At most {_MOST_STOPS}.")
        for text in self.stop:
            if not isinstance(text, str) or not 1 <= len(text) <= _LONGEST_STOP:
                raise InvalidInput(
                    f"stop has {text!r:.80}", hint=f"Texts of 1 to {_LONGEST_STOP} characters."
                )
        if len(self.stop_token_ids) > _MOST_STOP_IDS:
            raise InvalidInput(
                f"stop_token_ids has {len(self.stop_token_ids)} ids", hint=f"At most {_MOST_STOP_IDS}."
            )
        for token in self.stop_token_ids:
            if not _is_whole(token) or not 0 <= token <= _LARGEST_ID:
                raise InvalidInput(
                    f"stop_token_ids has {token!r}",
                    hint=f"Token ids are whole numbers from 0 to {_LARGEST_ID}.",
                )

    def _check_grammar(self) -> None:
        given = [field for field in GRAMMARS if getattr(self, field) is not None]
        if len(given) > 1:
            raise InvalidInput(f"{' and '.join(given)} are given together", hint="Give one of them.")
        for field in ("regex", "grammar"):
            value = getattr(self, field)
            if not isinstance(value, str | None):
                raise InvalidInput(f"{field} = {value!r:.80}", hint="Give a text.")
        if given and self.ignore_eos:
            raise InvalidInput(
                f"ignore_eos with {given[0]}",
                hint="What the grammar accepts ends by itself: leave ignore_eos out.",
            )


@dataclass(frozen=True)
class Sampled:
    """A chosen token; its logprob and the likeliest alternatives with theirs, where asked for.

    Logprobs (natural logarithm) are of the model's own distribution, before penalties, grammar and temperature.
    """

    token_id: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


class Constraint(Protocol):
    """A request's place in the language its text must belong to; moves by one token at a time."""

    @property
    def finished(self) -> bool:
        """Nothing can follow: what was generated is a whole text of the language."""

    def allowed(self) -> torch.Tensor:
        """The tokens that may come next: bool [vocabulary] on the CPU, at least one true. End tokens are among them where
        the text may end. Raises SamplingError where there is none or the language became too complex."""

    def advance(self, token_id: int) -> None:
        """Move behind a token that was allowed. Raises SamplingError where the language became too complex."""


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
