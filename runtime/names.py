"""What names mean: references and folders resolved to digests once, at the door, and kept as long as somebody needs them.

A name means the digest that it meant when it was attached, until it is attached again. A digest stays registered while a
name means it or a request uses it, so what runs finishes on the version that it began with. The digest itself may stand for
a name as long as it is registered; it is never fetched. Loading is Residency's.

Does not run anything, and knows no tasks.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from adapthub.adapters.errors import AdapterNotFound, InvalidInput
from adapthub.adapters.expression import parse_expression
from adapthub.runtime.chat_templates import ChatStyle, style_of
from adapthub.runtime.host_copy import without_bytes

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.selections import Selection
    from adapthub.runtime.residency import Residency

# What a row runs on: a name, a PEFT folder, an expression, or None for the base alone.
Adapter = str | Path | None
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_POLL = 0.5  # seconds after which a load is asked for again, so that it does not lapse


class Names:
    """The names that are attached over one `residency`; `fetch` pulls a reference or reads a folder. Thread-safe."""

    def __init__(self, residency: Residency, fetch: Callable[[str | Path], Artifact]) -> None:
        self._residency = residency
        self._fetch = fetch
        self._meanings: dict[str, str] = {}
        self._artifacts: dict[str, Artifact] = {}
        self._uses: Counter[str] = Counter()  # of digests, by requests in flight
        self._lock = threading.Lock()
        self._loaded = threading.Condition()
        self._waiting: set[Callable[[], object]] = set()  # what wakes those that wait on an event loop
        residency.when_ready(self._wake)

    @property
    def meanings(self) -> Mapping[str, str]:
        """The digest that each attached name means: a snapshot."""
        with self._lock:
            return dict(self._meanings)

    def meaning(self, name: str) -> str | None:
        """The digest that an attached name means, or that is registered; None for what is neither."""
        with self._lock:
            return self._meaning(name)

    def artifact(self, digest: str) -> Artifact:
        """What is registered under `digest`, without its weights."""
        with self._lock:
            return self._artifacts[digest]

    def chat_style(self, expression: str | None) -> ChatStyle:
        """How a name or the names of an expression want to be asked. Raises what `take` does, and InvalidInput where they do
        not agree."""
        with self.taken([expression]) as selections:
            return style_of(self.artifact(digest) for _, digest in selections[expression])

    def prefix_length(self, expression: str | None) -> int:
        """Virtual tokens of the prefix adapter in an expression; 0 where there is none, or none that is attached."""
        if expression is None:
            return 0
        names = [term.name for term in parse_expression(expression).terms]
        with self._lock:
            known = [self._artifacts[digest] for name in names if (digest := self._meaning(name))]
        return max((int(artifact.config.get("num_virtual_tokens") or 0) for artifact in known), default=0)

    def register(self, ref: str | Path) -> str:
        """Resolve a name anew and load nothing; returns the digest. Raises what pulling and reading raise."""
        digest = self._register(ref)
        self._mean(ref, digest)
        return digest

    def attach(self, ref: str | Path) -> str:
        """Resolve a name anew and load what it means; returns the digest once it is in a slot.

        Raises AdapterNotFound for a digest that is not registered, and what pulling, reading and binding raise; then the
        name means what it meant before.
        """
        digest = self._register(ref)
        try:
            self._wait([digest])
        except BaseException:
            self.give_back([digest])
            raise
        self._mean(ref, digest)
        self._residency.unwant([digest])  # it is ready: nobody waits for it, and others may
        return digest

    def detach(self, ref: str | Path) -> None:
        """Forget a name or a digest, and the adapter itself once no name means it and no request uses it.

        Raises AdapterNotFound.
        """
        with self._lock:
            names = [name for name, digest in self._meanings.items() if str(ref) in (name, digest)]
            if not names:
                raise AdapterNotFound(
                    f"{ref} is not attached", hint=f"Attached: {', '.join(self._meanings) or 'nothing'}."
                )
            self._drop_unused({self._meanings.pop(name) for name in names})

    def take(self, expression: str | None) -> Selection:
        """A name or an expression as digests, each used once more until `give_back`. Names are attached if they were not.

        Raises AdapterNotFound for a digest that is not registered, and what attaching raises.
        """
        if expression is None:
            return ()
        taken: list[tuple[float, str]] = []
        try:
            for term in parse_expression(expression).terms:
                taken.append((term.weight, self._take(term.name)))
        except BaseException:
            self.give_back([digest for _, digest in taken])
            raise
        return tuple(taken)

    def share(self, selection: Selection) -> None:
        """What was taken is used once more."""
        with self._lock:
            self._uses.update(digest for _, digest in selection)

    def give_back(self, digests: Sequence[str]) -> None:
        """Digests that were taken; what nobody needs any more is forgotten."""
        with self._lock:
            self._uses.subtract(digests)
            self._drop_unused(digests)

    @contextmanager
    def taken(self, names: Iterable[str | None]) -> Iterator[dict[str | None, Selection]]:
        """Within: what each name or expression meant when this began."""
        selections: dict[str | None, Selection] = {}
        try:
            for name in names:
                selections[name] = self.take(name)
            yield selections
        finally:
            self.give_back([digest for selection in selections.values() for _, digest in selection])

    @contextmanager
    def loaded(self, digests: Sequence[str]) -> Iterator[None]:
        """Within: all of these are in slots. Waits for them; raises what loading them raises."""
        while True:
            self._wait(digests)
            try:
                self._residency.hold(digests)
                break
            except AdapterNotFound:  # evicted since; what is not registered makes the wait raise
                continue
        try:
            yield
        finally:
            self._residency.release(digests)

    @contextmanager
    def held(self, digests: Sequence[str]) -> Iterator[None]:
        """The same without waiting. Raises AdapterNotFound where one of them is not in a slot."""
        self._residency.hold(digests)
        try:
            yield
        finally:
            self._residency.release(digests)

    async def until_loaded(self, digests: Sequence[str]) -> None:
        """Wait, on an event loop, for all of these to be in slots; they may leave again. Raises what loading them raises."""
        woken = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, woken.set)
        with self._lock:
            self._waiting.add(wake)
        try:
            while True:
                woken.clear()
                if self._residency.want(digests) == "ready":
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):
                        await woken.wait()
        except asyncio.CancelledError:
            self._residency.unwant(digests)
            raise
        finally:
            with self._lock:
                self._waiting.discard(wake)

    def _register(self, ref: str | Path) -> str:
        """Fetch what a name means now, used once more."""
        if _DIGEST.fullmatch(str(ref)):
            return self._take(str(ref))
        artifact = self._fetch(ref)
        with self._lock:
            self._uses[artifact.digest] += 1
            self._artifacts.setdefault(artifact.digest, without_bytes(artifact))
            self._residency.register(artifact)
        return artifact.digest

    def _mean(self, ref: str | Path, digest: str) -> None:
        """From now on `ref` means `digest`, which was used for this."""
        with self._lock:
            before = self._meaning(str(ref)) or digest
            if str(ref) != digest:
                self._meanings[str(ref)] = digest
            self._uses[digest] -= 1
            self._drop_unused([before])

    def _take(self, name: str) -> str:
        while True:
            with self._lock:
                if (digest := self._meaning(name)) is not None:
                    self._uses[digest] += 1
                    return digest
            if _DIGEST.fullmatch(name):
                raise AdapterNotFound(
                    f"adapter {name[:19]} was unloaded or replaced",
                    hint="Ask again by its name, which may mean another version now; or load it again.",
                )
            self.attach(name)

    def _meaning(self, name: str) -> str | None:
        """The caller holds the lock."""
        return name if name in self._artifacts else self._meanings.get(name)

    def _drop_unused(self, digests: Iterable[str]) -> None:
        """Forget what no name means and no request uses. The caller holds the lock."""
        for digest in {*digests} - set(self._meanings.values()):
            if self._uses[digest] == 0 and digest in self._artifacts:
                del self._uses[digest], self._artifacts[digest]
                with suppress(AdapterNotFound):  # it was closed meanwhile
                    self._residency.forget(digest)

    def _wait(self, digests: Sequence[str]) -> None:
        with self._loaded:
            while self._residency.want(digests) == "loading":
                self._loaded.wait(_POLL)

    def _wake(self) -> None:
        with self._loaded:
            self._loaded.notify_all()
        with self._lock:
            waiting = [*self._waiting]
        for wake in waiting:
            with suppress(RuntimeError):  # its loop was closed
                wake()


def one_each(adapters: Adapter | Sequence[Adapter], rows: int, what: str) -> list[str | None]:
    """The adapter of each row, where one is given for all or one a row."""
    one = adapters is None or isinstance(adapters, (str, Path))
    given = [adapters] * rows if one else list(cast(Sequence[Adapter], adapters))
    names = [None if name is None else str(name) for name in given]
    if len(names) == 1:
        names *= rows
    if len(names) != rows:
        raise InvalidInput(
            f"{rows} {what} and {len(names)} adapters",
            hint=f"Give one adapter, or one for each of the {what}.",
        )
    return names
