"""One request of single-pass texts: the counterpart of answering.

    predicted = await predict(serving, caller, target, "embedding", texts, id=id, check=has_features)

Does not know HTTP or any API's format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.pictures import Picture
from adapthub.runtime.predict import Pair, Passage, Text, TokenIds
from adapthub.runtime.predictor import Answer, Question
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.passing import passed
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import Caller

# What one request may hold: as many texts and tokens as OpenAI takes, and no text of which most would be cut off.
MOST_TEXTS, _MOST_TOKENS, _MOST_CHARACTERS = 2048, 300_000, 2_000_000


@dataclass(frozen=True)
class Predicted:
    """What one request came to: an answer a text, or one a window of a text, in order, and the tokens that were read."""

    answers: Sequence[Answer]
    tokens: int

    @property
    def truncated(self) -> int:
        """Texts whose end was not read."""
        return sum(answer.question.row.truncated for answer in self.answers)


async def predict(
    serving: Serving,
    caller: Caller,
    target: Target,
    kind: str,
    texts: Sequence[Text | TokenIds | Picture],
    *,
    id: str,
    check: Callable[[Question], None] = lambda _: None,
) -> Predicted:
    """Read, admit and run texts under one adapter. `id` names the request; `check` may refuse a text that was read, before
    it counts.

    Raises InvalidInput for texts that cannot be read or are too many, RateLimited and QuotaExceeded by the caller's limits,
    Overloaded by the server's, and what loading the adapter raises. A caller that is cancelled leaves the queue.
    """
    _check_size(texts)
    answers, tokens = await passed(
        serving,
        caller,
        target,
        kind,
        serving.runtime.batcher,
        texts,
        id=id,
        admitted=lambda questions: _admitted(questions, check),
    )
    return Predicted(answers, tokens)


def _admitted(questions: Sequence[Question], check: Callable[[Question], None]) -> int:
    for question in questions:
        check(question)
    return _tokens(questions)


def _check_size(texts: Sequence[Text | TokenIds | Picture]) -> None:
    if not texts:
        raise InvalidInput("there is no text", hint="Send one or more.")
    if len(texts) > MOST_TEXTS:
        raise InvalidInput(
            f"{len(texts):,} texts in one request", hint=f"Send at most {MOST_TEXTS:,} at once."
        )
    characters = sum(len(text) for text in texts if isinstance(text, str))
    characters += sum(len(text.first) + len(text.second) for text in texts if isinstance(text, Pair))
    characters += sum(len(text.text) for text in texts if isinstance(text, Passage))
    if characters > _MOST_CHARACTERS:
        raise InvalidInput(
            f"the texts have {characters:,} characters", hint=f"Send at most {_MOST_CHARACTERS:,} at once."
        )


def _tokens(questions: Sequence[Question]) -> int:
    tokens = sum(question.tokens for question in questions)
    if tokens > _MOST_TOKENS:
        raise InvalidInput(
            f"the texts have {tokens:,} tokens", hint=f"Send at most {_MOST_TOKENS:,} at once."
        )
    return tokens
