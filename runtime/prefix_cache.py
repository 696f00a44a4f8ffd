"""Pages of prompts that were computed before, for requests that begin with the same tokens.

A chain of full pages hangs under a root, (tenant, selection): keys and values depend on the adapters and their weights, and
tenants must not learn from timing what others asked (arXiv 2603.10726). Within a chain a page is found by its tokens
themselves, compared one by one, under the page before it; so equal hashes never make a hit (RadixAttention of Zheng et al.
2024, by whole pages).

Holds its pages beside whoever else does. Does not compute, copy or decide when to evict.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from adapthub.adapters.selections import Selection
from adapthub.runtime.kv import Pages

# Who asked, and with which adapters at which weights (sorted by digest).
Root = tuple[str, Selection]


@dataclass(eq=False)
class _Page:
    """A cached page: its tokens, the page or root before it, and the pages that continue it, by their tokens."""

    page: int
    tokens: tuple[int, ...]
    above: _Page | _Start
    below: dict[tuple[int, ...], _Page] = field(default_factory=dict)


@dataclass(eq=False)
class _Start:
    """Where the chains of one root begin."""

    root: Root
    below: dict[tuple[int, ...], _Page] = field(default_factory=dict)


class PrefixCache:
    """Full pages of prompts by root and tokens. Not safe to use from several threads."""

    def __init__(self, pages: Pages, page_size: int) -> None:
        self._pages = pages
        self._size = page_size
        self._roots: dict[Root, _Start] = {}
        # Least recently used first; a page never stands before those that continue it.
        self._by_use: OrderedDict[_Page, None] = OrderedDict()

    def __len__(self) -> int:
        """Pages that it holds."""
        return len(self._by_use)

    def match(self, root: Root, tokens: Sequence[int]) -> list[int]:
        """The longest run of cached pages that `tokens` begin with, each with one more holder: the caller.

        Never all of the tokens: at least one is left to compute, since its logits are wanted.
        """
        found = self._find(root, tokens, (len(tokens) - 1) // self._size)
        self._use(found)
        pages = [node.page for node in found]
        self._pages.share(pages)
        return pages

    def insert(self, root: Root, tokens: Sequence[int], pages: Sequence[int]) -> None:
        """Keep the full pages of a computed prompt; page i of `pages` holds the i-th page of `tokens`.

        What is cached already stays, with the page it has.
        """
        keys = self._keys(tokens, len(tokens) // self._size)
        if not keys:
            return
        if len(pages) < len(keys):
            raise ValueError(f"{len(pages)} pages do not hold {len(keys)} full pages of tokens")
        node: _Page | _Start = self._roots.setdefault(root, _Start(root))
        chain = []
        for key, page in zip(keys, pages, strict=False):
            if key not in node.below:
                self._pages.keep(page)
                node.below[key] = _Page(page, key, node)
            node = node.below[key]
            chain.append(node)
        self._use(chain)

    def evict(self, count: int) -> int:
        """Give back `count` pages, or as many as nobody else holds: least recently used first, ends of chains first.

        Returns how many pages are free by it.
        """
        leaving: dict[_Page, None] = {}  # an end of a chain before the page that it continues
        for node in self._by_use:
            if len(leaving) >= count:
                break
            if self._pages.holders(node.page) == 1 and all(below in leaving for below in node.below.values()):
                leaving[node] = None
        for node in leaving:
            self._remove(node)
        return len(leaving)

    def forget_root(self, root: Root) -> None:
        """Give back every page under `root`."""
        start = self._roots.pop(root, None)
        todo = list(start.below.values()) if start else []
        while todo:
            node = todo.pop()
            todo += node.below.values()
            self._release(node)

    def _find(self, root: Root, tokens: Sequence[int], most: int) -> list[_Page]:
        node: _Page | _Start | None = self._roots.get(root)
        found: list[_Page] = []
        for key in self._keys(tokens, most):
            if node is None or key not in node.below:
                break
            node = node.below[key]
            found.append(node)
        return found

    def _keys(self, tokens: Sequence[int], pages: int) -> list[tuple[int, ...]]:
        return [tuple(tokens[i * self._size : (i + 1) * self._size]) for i in range(pages)]

    def _use(self, chain: Sequence[_Page]) -> None:
        for node in reversed(chain):
            self._by_use[node] = None
            self._by_use.move_to_end(node)

    def _remove(self, node: _Page) -> None:
        above = node.above
        del above.below[node.tokens]
        if isinstance(above, _Start) and not above.below:
            del self._roots[above.root]
        self._release(node)

    def _release(self, node: _Page) -> None:
        del self._by_use[node]
        self._pages.drop(node.page)
