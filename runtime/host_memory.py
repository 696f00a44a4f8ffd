"""Host memory: which adapters' copies are kept there, what is read into it next, and what is dropped for that.

Keeps the books. Does not read: whoever asks for `reads` does. Not thread-safe: Residency's lock is held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from adapthub.runtime.host_copy import HostCopy
from adapthub.runtime.registered import Registered
from adapthub.runtime.tier import Tier


class HostMemory:
    """Copies of `size` bytes together, of `adapters` by digest; one at least may be there, whatever its size."""

    def __init__(self, size: int, adapters: Mapping[str, Registered]) -> None:
        self._tier = Tier(None, size)  # read, or being read
        self._adapters = adapters

    @property
    def held(self) -> Mapping[str, int]:
        """Bytes of each copy that is there or being read, by digest."""
        return self._tier.held

    def has_room(self, adapter: Registered) -> bool:
        """Whether it fits without another being dropped."""
        return not self._tier.lacks([adapter.host_size])

    def reads(self, missing: Sequence[Registered]) -> Iterator[Registered]:
        """What is to be read now of what is missing, in order, as far as there is room; one at least, whatever its size."""
        self._trim(0, missing, ())
        if not missing:
            return
        held = [self._adapters[digest] for digest in self._tier.held]
        kept = {adapter for adapter in held if adapter.reading or adapter.stage == "loading"}
        for place, adapter in enumerate(missing):
            if adapter.digest not in self._tier.held:
                if kept and sum(a.host_size for a in (*kept, adapter)) > self._tier.size:
                    return
                self._trim(adapter.host_size, missing[:place], missing[place + 1 :])
                self.begin(adapter)
                yield adapter
            kept.add(adapter)

    def begin(self, adapter: Registered) -> None:
        """It is being read."""
        adapter.reading = True
        self._tier.put(adapter.digest, adapter.host_size)

    def was_read(self, adapter: Registered, copy: HostCopy | None) -> None:
        """It is here; or reading it failed."""
        adapter.reading = False
        if copy is None:
            self._tier.drop(adapter.digest)
        else:
            adapter.host = copy
            self._tier.put(adapter.digest, copy.host_bytes)
            self._tier.use(adapter.digest)

    def use(self, adapter: Registered) -> None:
        """A slot was filled from its copy."""
        self._tier.use(adapter.digest)

    def drop(self, adapter: Registered, *, evicted: bool = False) -> None:
        """Its copy goes: `evicted` for want of room, or with the adapter."""
        adapter.host = None
        self._tier.drop(adapter.digest, evicted=evicted)

    def _trim(self, coming: int, before: Collection[Registered], after: Sequence[Registered]) -> None:
        """Drop copies until `coming` bytes fit: first those that no load is about to use, then those loaded later."""
        if not self._tier.lacks([coming]):
            return
        copies = [
            a for digest in self._tier.held if (a := self._adapters[digest]).host and a.stage != "loading"
        ]
        unused = [a.digest for a in copies if a not in before and a not in after]
        later = [a.digest for a in reversed(after) if a in copies]
        for digest in (*self._tier.order(unused), *later):
            if not self._tier.lacks([coming]):
                return
            self.drop(self._adapters[digest], evicted=True)
