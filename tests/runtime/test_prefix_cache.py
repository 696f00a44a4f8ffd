"""The cache against a dictionary of all prompts' beginnings, with requests that come, hold, compute and go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from adapthub.runtime.kv import OutOfPages, Pages
from adapthub.runtime.prefix_cache import PrefixCache, Root

COUNT, SIZE = 12, 2
ROOTS: list[Root] = [
    ("acme", ()),
    ("zeta", ()),
    ("acme", ((1.0, "a"),)),
    ("acme", ((0.5, "a"),)),
    ("acme", ((0.5, "a"), (0.5, "b"))),
]
# What a page was computed from: a root and all tokens up to the page's last.
Beginning = tuple[Root, tuple[int, ...]]


class CacheAgainstDictionary(RuleBasedStateMachine):
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.pages = Pages(COUNT)
        self.cache = PrefixCache(self.pages, SIZE)
        self.known: dict[Beginning, tuple[int, int]] = {}  # (page, when last used)
        self.content: dict[int, Beginning] = {}
        self.held: list[list[int]] = []
        self.time = 0

    @rule(
        target=requests,
        root=st.sampled_from(ROOTS),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9),
        computed=st.booleans(),
    )
    def request(self, root: Root, tokens: list[int], computed: bool) -> list[int]:
        """Match, take pages for the rest, compute, keep (or be cancelled before)."""
        matched = self.cache.match(root, tokens)
        assert matched == self.naive_match(root, tokens)
        assert len(matched) * SIZE < len(tokens)
        for i, page in enumerate(matched):
            assert self.content[page] == (root, tuple(tokens[: (i + 1) * SIZE]))
        try:
            pages = matched + self.pages.take(-(-len(tokens) // SIZE) - len(matched))
        except OutOfPages:
            self.pages.give_back(matched)
            return []
        self.held.append(pages)
        if computed:
            for i in range(len(matched), len(tokens) // SIZE):
                self.content[pages[i]] = root, tuple(tokens[: (i + 1) * SIZE])
            self.cache.insert(root, tokens, pages)
            for i in range(len(tokens) // SIZE):
                beginning = root, tuple(tokens[: (i + 1) * SIZE])
                self.known[beginning] = self.known.get(beginning, (pages[i], 0))[0], self.time
        return pages

    @rule(pages=consumes(requests))
    def end(self, pages: list[int]) -> None:
        if pages:
            self.held.remove(pages)
            self.pages.give_back(pages)

    @rule(count=st.integers(0, COUNT))
    def evict(self, count: int) -> None:
        freed = 0
        while freed < count and (last := self.naive_ends()):
            del self.known[min(last, key=lambda beginning: self.known[beginning][1])]
            freed += 1
        assert self.cache.evict(count) == freed

    @rule(root=st.sampled_from(ROOTS))
    def forget(self, root: Root) -> None:
        self.cache.forget_root(root)
        self.known = {beginning: kept for beginning, kept in self.known.items() if beginning[0] != root}

    def naive_match(self, root: Root, tokens: Sequence[int]) -> list[int]:
        self.time += 1
        pages: list[int] = []
        for stop in range(SIZE, len(tokens), SIZE):
            beginning = root, tuple(tokens[:stop])
            if beginning not in self.known:
                break
            pages.append(self.known[beginning][0])
            self.known[beginning] = pages[-1], self.time
        return pages

    def naive_ends(self) -> list[Beginning]:
        """Pages that only the cache holds and nothing continues."""
        used = {page for pages in self.held for page in pages}
        continued = {(root, tokens[:-SIZE]) for root, tokens in self.known}
        return [b for b, (page, _) in self.known.items() if b not in continued and page not in used]

    @invariant()
    def no_page_is_lost(self) -> None:
        assert len(self.cache) == len(self.known)
        holders = [page for pages in self.held for page in pages]
        holders += [page for page, _ in self.known.values()]
        assert [self.pages.holders(page) for page in range(COUNT)] == [
            holders.count(page) for page in range(COUNT)
        ]
        assert self.pages.idle == sum(holders.count(page) == 1 for page, _ in self.known.values())

    def teardown(self) -> None:
        for pages in self.held:
            self.pages.give_back(pages)
        assert self.cache.evict(COUNT) == len(self.known)
        assert self.pages.free == COUNT


TestPrefixCache = CacheAgainstDictionary.TestCase


class Colliding(int):
    """Token ids that all hash alike."""

    __hash__ = lambda self: 7  # noqa: E731


def test_tokens_of_one_hash_do_not_hit() -> None:
    pages = Pages(4)
    cache = PrefixCache(pages, 2)
    cache.insert(("acme", ()), [Colliding(1), Colliding(2)], pages.take(1))
    assert cache.match(("acme", ()), [Colliding(1), Colliding(3), 5]) == []
    assert cache.match(("acme", ()), [Colliding(1), Colliding(2), 5]) == [0]


def test_fewer_pages_than_tokens_is_an_error() -> None:
    pages = Pages(4)
    cache = PrefixCache(pages, 2)
    with pytest.raises(ValueError, match="1 pages do not hold 2"):
        cache.insert(("acme", ()), [1, 2, 3, 4], pages.take(1))
    assert len(cache) == 0
