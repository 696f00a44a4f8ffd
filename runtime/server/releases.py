"""Releases: a candidate version of an adapter beside the one that an alias means, until it is promoted or given up.

A canary answers the share `weight` of the requests for `name@alias`, the same users every time; a shadow answers such a
share beside the version that the alias means, unheard. The last `rule.window` answers of the candidate are watched; where
they break the rule the candidate is asked no more: the alias never moved, so that is all there is to roll back.

Keeps the books, in memory and in one file. Does not resolve names, answer, or move aliases. Belongs to one event loop;
`save` may be called on a thread.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    ArtifactError,
    Conflict,
    SamplingError,
    StorageError,
)
from adapthub.adapters.files import write_bytes
from adapthub.hub.registry import Version

_KEPT = 100  # releases that ended and are still listed
_SLOWEST = 0.05  # the share of answers beyond a 95th percentile


class Rule(BaseModel):
    """When a candidate is given up: more than the share `max_error_rate` of its last `window` answers failed by its fault,
    or the 95th percentile of their time to the first token or of their whole time is above so many milliseconds. Judged
    as soon as it is certain, which may be before the window is full."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_error_rate: float | None = Field(default=None, ge=0, lt=1)
    max_p95_ttft_ms: float | None = Field(default=None, gt=0)
    max_p95_ms: float | None = Field(default=None, gt=0)
    window: int = Field(default=100, ge=1, le=100_000)


class Release(BaseModel):
    """One release. `number` and `digest` are the candidate's version; `reason`: why it ended as it did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    alias: str
    kind: Literal["canary", "shadow"]
    number: int
    digest: str
    weight: float = Field(ge=0, le=1)
    rule: Rule
    state: Literal["running", "finished", "stopped", "rolled_back"] = "running"
    reason: str = ""
    created: datetime
    ended: datetime | None = None

    @property
    def label(self) -> str:
        """The candidate, for people."""
        return f"{self.name}@v{self.number}"

    def takes(self, key: str) -> bool:
        """Whether the requests of `key` go to the candidate: the same for one key and weight every time, and once they do
        also for every higher weight."""
        drawn = hashlib.sha256(f"{self.id}\0{key}".encode(errors="surrogatepass")).digest()
        return int.from_bytes(drawn[:8]) < self.weight * 2**64


@dataclass(frozen=True)
class Sample:
    """One answer of a candidate; times in seconds, `ttft` None where no token came."""

    failed: bool
    ttft: float | None
    seconds: float


@dataclass
class Tally:
    """The candidate's answers since the server started; of a shadow's, those `compared` with the one that was given,
    those of `equal` text, and the tokens of both."""

    answers: int = 0
    failed: int = 0
    compared: int = 0
    equal: int = 0
    tokens: int = 0
    candidate_tokens: int = 0


class Releases:
    """All releases of one server, in `path` so that they survive it; None keeps them in memory. Servers that share a path
    see each other's when they start, and the last to write wins.

    Raises StorageError for a file that cannot be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._releases: dict[str, Release] = {release.id: release for release in _read(path)}
        self._tallies: dict[str, Tally] = {}
        self._windows: dict[str, _Window] = {}
        self._writing = threading.Lock()

    def __iter__(self) -> Iterator[Release]:
        """The newest first."""
        return reversed(list(self._releases.values()))

    def get(self, id: str) -> Release:
        """Raises AdapterNotFound."""
        if id not in self._releases:
            raise AdapterNotFound(f"there is no release {id!r}", hint="GET /admin/releases lists them.")
        return self._releases[id]

    def tally(self, id: str) -> Tally:
        """What it came to so far."""
        return self._tallies.setdefault(id, Tally())

    def running(self, name: str, alias: str | None) -> Release | None:
        """The release that requests for `name@alias` take part in."""
        for release in self._releases.values():
            if release.state == "running" and (release.name, release.alias) == (name, alias):
                return release
        return None

    def start(
        self, candidate: Version, alias: str, kind: Literal["canary", "shadow"], weight: float, rule: Rule
    ) -> Release:
        """Raises Conflict where one of the same name and alias runs."""
        if (other := self.running(candidate.name, alias)) is not None:
            raise Conflict(
                f"release {other.id} of {other.label} to {alias} is running",
                hint="Finish or delete it first.",
            )
        release = Release(
            id=uuid4().hex[:12],
            name=candidate.name,
            alias=alias,
            kind=kind,
            number=candidate.number,
            digest=candidate.digest,
            weight=weight,
            rule=rule,
            created=datetime.now(UTC),
        )
        self._releases[release.id] = release
        ended = [release.id for release in self._releases.values() if release.state != "running"]
        for id in ended[:-_KEPT]:
            del self._releases[id]
        return release

    def reweigh(self, id: str, weight: float) -> Release:
        """Give a running release another share. Raises AdapterNotFound, and Conflict for one that ended."""
        return self._change(self._still_running(id), weight=weight)

    def end(self, id: str, state: Literal["finished", "stopped", "rolled_back"], reason: str) -> Release:
        """Ask the candidate no more. Raises AdapterNotFound, and Conflict for one that ended."""
        return self._change(self._still_running(id), state=state, reason=reason, ended=datetime.now(UTC))

    def resume(self, before: Release) -> Release:
        """It runs again as it did `before` it was ended, or stays ended where another of its alias runs by now."""
        if self.running(before.name, before.alias) is not None:
            return self._change(self.get(before.id), state="stopped", reason="another release began")
        self._releases[before.id] = before
        return before

    def count(self, id: str, sample: Sample) -> Release | None:
        """One answer of a candidate ended; the release, where that broke its rule and ended it."""
        release = self._releases.get(id)
        if release is None:
            return None
        tally = self.tally(id)
        tally.answers += 1
        tally.failed += sample.failed
        if release.state != "running":  # it began before
            return None
        window = self._windows.setdefault(id, _Window(release.rule))
        window.add(sample)
        broken = window.broken()
        return self.end(id, "rolled_back", broken) if broken else None

    def save(self) -> None:
        """Write all of it aside and rename. Raises StorageError."""
        if self._path is None:
            return
        with self._writing:  # the last to write has seen the most
            content = [release.model_dump(mode="json") for release in list(self._releases.values())]
            write_bytes(self._path, json.dumps(content, indent=1).encode())

    def describe(self, release: Release) -> dict[str, object]:
        """A release with what it came to, as JSON has it."""
        return {
            **release.model_dump(mode="json", exclude={"number"}),
            "candidate": release.label,
            **asdict(self.tally(release.id)),
        }

    def _still_running(self, id: str) -> Release:
        release = self.get(id)
        if release.state != "running":
            raise Conflict(f"release {id} is {release.state.replace('_', ' ')} already")
        return release

    def _change(self, release: Release, **fields: object) -> Release:
        changed = release.model_copy(update=fields)
        self._releases[release.id] = changed
        return changed


def is_fault(error: BaseException | None) -> bool:
    """Whether an answer that ended with `error` failed by its adapter or the server, not by what the client asked or how
    much others did."""
    if isinstance(error, AdaptHubError):
        return isinstance(error, ArtifactError | SamplingError) or type(error) is AdaptHubError
    return isinstance(error, Exception)  # not a client that went away


class _Window:
    """The last answers under one rule, and how many of them were bad in each of its ways: counted as they come and go."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._answers: deque[tuple[bool, bool, bool]] = deque()
        self._failed = self._late = self._long = 0

    def add(self, sample: Sample) -> None:
        """One more; what is beyond the window goes."""
        rule = self._rule
        late = _above(sample.ttft, rule.max_p95_ttft_ms)
        long = not sample.failed and _above(sample.seconds, rule.max_p95_ms)
        self._answers.append((sample.failed, late, long))
        self._sum(self._answers[-1], 1)
        if len(self._answers) > rule.window:
            self._sum(self._answers.popleft(), -1)

    def broken(self) -> str:
        """How the rule is broken, in words; "" where it is not. The answers that are still to come can mend nothing."""
        rule, answers = self._rule, len(self._answers)
        if rule.max_error_rate is not None and self._failed > rule.max_error_rate * rule.window:
            return (
                f"error rate: {self._failed} of the last {answers} answers failed, more than "
                f"{rule.max_error_rate:.3g} of {rule.window}"
            )
        for what, limit, slow in (
            ("time to first token", rule.max_p95_ttft_ms, self._late),
            ("latency", rule.max_p95_ms, self._long),
        ):
            if slow > _SLOWEST * rule.window:
                return (
                    f"{what}: {slow} of the last {answers} answers took more than {limit:g} ms, more than "
                    f"{_SLOWEST:g} of {rule.window}"
                )
        return ""

    def _sum(self, answer: tuple[bool, bool, bool], sign: int) -> None:
        failed, late, long = answer
        self._failed += sign * failed
        self._late += sign * late
        self._long += sign * long


def _above(seconds: float | None, limit: float | None) -> bool:
    return seconds is not None and limit is not None and 1000 * seconds > limit


def _read(path: Path | None) -> list[Release]:
    if path is None or not path.exists():
        return []
    try:
        return TypeAdapter(list[Release]).validate_json(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise StorageError(
            f"{path} does not hold releases: {first['msg']}", hint="Mend it, or move it away."
        ) from error
