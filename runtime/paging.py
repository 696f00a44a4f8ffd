"""Which request holds which pages of keys and values: its prefix adapter's, those of a cached prompt, and its own.

Pages that only wait to be used again make room for others: cached prompts first, then prefixes that no request reads. Where
that is not enough `grow` says no, and its owner must stop somebody. Does not choose who runs or who is stopped, and
computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.kv import KV, Held, OutOfPages, Pages
from adapthub.runtime.prefix_cache import PrefixCache, Root
from adapthub.runtime.requests import Request

_EVICTED = 64  # the part of all pages, one in so many, that cached prompts give up at once


@dataclass
class _PrefixPages:
    """A prefix adapter's pages, and how many requests read them."""

    pages: list[int]
    length: int
    readers: int = 0


class Paging:
    """The `pages` of one pool `kv`, for requests on one adapted base whose context is at most `context` tokens, prefix
    included. Not thread-safe, but for `check_room`.

    A request's life: `open`; before each of its passes `reuse` and `grow`; `keep` once others may profit; `close`.
    """

    def __init__(self, adapted: AdaptedBase, kv: KV, pages: Pages, context: int) -> None:
        self._adapted = adapted
        self._kv = kv
        self._pages = pages
        self._context = context
        self._cache = PrefixCache(pages, kv.page_size)
        self._prefixes: dict[str, _PrefixPages] = {}

    def room(self, prefix: int = 0, prompt: int = 0) -> int:
        """Tokens that one request may have behind a prefix and a prompt of so many; below 0 where these are too long."""
        pool = (self._pages.count - self._pages_for(prefix)) * self._kv.page_size
        return min(self._context - prefix, pool) - prompt

    def bounds(self, prefix: int = 0) -> str:
        """The same, in words."""
        behind = f" behind a prefix of {prefix}" if prefix else ""
        return f"together at most {Paging.room(self, prefix)} fit{behind}"

    def check_room(self, count: int, new: int, prefix: int = 0) -> None:
        """Raise InvalidInput where a prompt of `count` tokens and `new` ones exceed the context, or all the pages."""
        if new > self.room(prefix, count):
            raise InvalidInput(
                f"the prompt has {count} tokens and max_new_tokens is {new}; {self.bounds(prefix)}",
                hint="Shorten the prompt or lower max_new_tokens.",
            )

    def fits(self, request: Request, tokens: Sequence[int], spare: int) -> bool:
        """Whether there are pages for those of its tokens that are not cached, and `spare` more; makes what room it can."""
        # Held meanwhile: making room might drop just these.
        cached = self._cache.match(_root(request), tokens)
        try:
            while (
                lacking := self._needed(request, len(tokens)) - len(cached) + spare - self._pages.free
            ) > 0:
                # Nothing is dropped for what would not fit all the same. Its own prefix may go, and is then needed anew.
                if lacking > self._reclaimable() or not self._reclaim(lacking):
                    return False
            return True
        finally:
            self._pages.give_back(cached)

    def missing(self, held: Held, count: int) -> int:
        """Pages that the next `count` tokens of a request take."""
        return held.missing(count, self._kv.page_size)

    def open(self, request: Request) -> Held:
        """Holding nothing but the pages of its prefix adapter, if it has one. Raises InvalidInput where it does not fit."""
        for digest in request.digests:
            prefix = self._adapted.attached[digest].prefix
            if prefix is None:
                continue
            self.check_room(len(request.prompt_ids), request.sampling.max_new_tokens, prefix.length)
            if digest not in self._prefixes:
                pages = self._take_pages(self._pages_for(prefix.length))
                try:
                    self._kv.write_prefix(prefix, pages)
                except Exception:
                    self._pages.give_back(pages)
                    raise
                self._prefixes[digest] = _PrefixPages(pages, prefix.length)
            shared = self._prefixes[digest]
            shared.readers += 1
            return Held(prefix_pages=shared.pages, prefix_length=shared.length)
        return Held()

    def reuse(self, request: Request, tokens: Sequence[int], held: Held) -> int:
        """Let a request go on from what others computed, or compute in this pass, of its tokens; returns how many it gains.

        Only where its last page is full: a page that it writes itself is never exchanged.
        """
        if held.length < len(held.pages) * self._kv.page_size:
            return 0
        cached = self._cache.match(_root(request), tokens)
        known, new = cached[: len(held.pages)], cached[len(held.pages) :]
        self._pages.give_back(known)
        held.pages += new
        held.length += len(new) * self._kv.page_size
        return len(new) * self._kv.page_size

    def grow(self, held: Held, count: int) -> bool:
        """Pages for the next `count` tokens; False, and nothing taken, where none are left to free but those that others
        use."""
        missing = held.missing(count, self._kv.page_size)
        while missing:
            try:
                held.pages += self._pages.take(missing, after=held.pages[-1] if held.pages else None)
                return True
            except OutOfPages:
                if not self._reclaim(missing - self._pages.free):
                    return False
        return True

    def keep(self, request: Request, tokens: Sequence[int], held: Held, ahead: int = 0) -> None:
        """Cache what is computed of its tokens, for requests of the same tenant on the same adapters; and the `ahead` next
        ones, which this pass computes: every layer writes the keys of all its rows before any is read."""
        self._cache.insert(_root(request), tokens[: held.length + ahead], held.pages)

    def distrust(self, request: Request) -> None:
        """Cache nothing of what its tenant computed on its adapters: some of it may be broken."""
        self._cache.forget_root(_root(request))

    def close(self, request: Request, held: Held) -> None:
        """Give back all that it held; pages that are cached or shared stay with their other holders."""
        self._pages.give_back(held.pages)
        if held.prefix_length:
            for digest in request.digests:
                if digest in self._prefixes:
                    self._prefixes[digest].readers -= 1

    def clear(self) -> None:
        """Give back the pages of cached prompts and of prefixes that no request reads."""
        self._cache.evict(self._pages.count)
        self._drop_idle_prefixes()

    def _needed(self, request: Request, tokens: int) -> int:
        """Pages for so many tokens and the one that follows, and for prefixes that are not there yet."""
        attached = self._adapted.attached if request.digests else {}
        prefixes = [
            prefix
            for digest in request.digests
            if digest not in self._prefixes and digest in attached and (prefix := attached[digest].prefix)
        ]
        return self._pages_for(tokens + 1) + sum(self._pages_for(prefix.length) for prefix in prefixes)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._kv.page_size)

    def _take_pages(self, count: int) -> list[int]:
        """Pages for a prefix, which `fits` found room for. Raises InvalidInput where nothing runs and all are too few."""
        while True:
            try:
                return self._pages.take(count)
            except OutOfPages:
                if not self._reclaim(count - self._pages.free):
                    raise InvalidInput(
                        f"the prefix needs {count} pages of keys and values; there are {self._pages.count}"
                    ) from None

    def _reclaim(self, count: int) -> bool:
        """Free pages that only wait to be used again; False if there are none."""
        # Some at once: what was computed together lies together, and so does what takes its place.
        return self._cache.evict(max(count, self._pages.count // _EVICTED)) > 0 or self._drop_idle_prefixes()

    def _reclaimable(self) -> int:
        """At most so many pages `_reclaim` can free."""
        idle = (len(prefix.pages) for prefix in self._prefixes.values() if prefix.readers == 0)
        return self._pages.idle + sum(idle)

    def _drop_idle_prefixes(self) -> bool:
        idle = [digest for digest, prefix in self._prefixes.items() if prefix.readers == 0]
        for digest in idle:
            self._pages.give_back(self._prefixes.pop(digest).pages)
        return bool(idle)


def _root(request: Request) -> Root:
    """What its pages may be shared with: the same tenant, adapters and weights."""
    return request.tenant, request.adapters
