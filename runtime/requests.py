"""What is asked of the engine and what it answers: requests, events, results.

Plain data. Does not validate prompts, resolve names or know how any of it is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from adapthub.adapters.errors import AdaptHubError
from adapthub.adapters.selections import Selection
from adapthub.runtime.sampling import Constraint, Sampled, Sampling

# Why a request ended. "stop": an end token, a stop string or id, or a grammar that is complete; "length": max_new_tokens or
# the context is used up; "deadline": too late; "error": `Event.error` says what.
FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]


@dataclass(frozen=True)
class Usage:
    """Tokens of one request: of the prompt, of them found in the prefix cache, and generated. None of one that never ran:
    refused by a full queue, or ended while it waited."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Event:
    """Something new of one request: text, the tokens behind it, and in the last event why it ended.

    `text` may lag behind `tokens`: what may be the beginning of a stop string, or half a character, is held back. `at`: when
    it came about; `started`, in the last event: when the request first ran, if it did. Both in seconds of the engine's
    clock, time.monotonic.
    """

    text: str
    tokens: tuple[Sampled, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: AdaptHubError | None = None
    started: float | None = None
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class Request:
    """One text to continue. `deliver` gets its events, in order, on the engine's thread, and must not block.

    `choice`: which of the n texts of one prompt this is; it draws random numbers of its own. `deadline` is in seconds of the
    engine's clock; `priority`: higher goes first within the tenant.
    """

    id: str
    prompt_ids: tuple[int, ...]
    selection: Selection
    sampling: Sampling
    deliver: Callable[[Event], None]
    constraint: Constraint | None = None
    choice: int = 0
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None

    @property
    def adapters(self) -> Selection:
        """Its adapters and weights, the same for every order in which they were named."""
        return tuple(sorted(self.selection, key=lambda term: term[1]))

    @property
    def digests(self) -> tuple[str, ...]:
        """The adapters that it runs on."""
        return tuple(digest for _, digest in self.selection)


@dataclass(frozen=True)
class Generation:
    """What became of one request. `tokens` are the generated ones; an end token is among them, and not in `text`."""

    text: str
    tokens: tuple[Sampled, ...]
    finish_reason: FinishReason
    usage: Usage

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]


def generation(events: Sequence[Event]) -> Generation:
    """All events of one request as its result. Raises the error that it ended with."""
    last = events[-1]
    if last.error is not None:
        raise last.error
    assert last.finish_reason is not None
    assert last.usage is not None
    return Generation(
        text="".join(event.text for event in events),
        tokens=tuple(token for event in events for token in event.tokens),
        finish_reason=last.finish_reason,
        usage=last.usage,
    )


def as_ours(error: Exception, what: str) -> AdaptHubError:
    """An error that a request ends with: ours as it is; another as the cause of one that says `what` went wrong."""
    if isinstance(error, AdaptHubError):
        return error
    failure = AdaptHubError(
        f"{what}: {type(error).__name__}: {error}",
        hint="Report the base, the adapters and the request.",
    )
    failure.__cause__ = error
    return failure
