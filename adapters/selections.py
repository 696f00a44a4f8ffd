"""What the adapters of one row may be: which sums mean something, what stands before the row, how long it may be.

Does not attach, parse expressions, or run rows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from adapthub.adapters.bank import Bank
from adapthub.adapters.errors import InvalidExpression, UnsupportedAdapter
from adapthub.adapters.flat import Prefix
from adapthub.adapters.passes import by_token, not_by_token

if TYPE_CHECKING:
    from adapthub.adapters.base import Base

# The adapters of one row: (weight, digest) terms; empty for the base alone.
Selection = tuple[tuple[float, str], ...]


def runs(keys: Sequence[Selection]) -> list[tuple[int, int]]:
    """[start, stop) of each run of equal neighbours."""
    edges = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
    return list(zip(edges, [*edges[1:], len(keys)], strict=True))


class Selections:
    """Selections of the adapters in `bank`, over `base`, whose named modules are `modules` and whose first position is
    `offset`. `lock` is the one that its passes hold."""

    def __init__(
        self,
        base: Base,
        bank: Bank,
        lock: threading.RLock,
        modules: Mapping[str, nn.Module],
        offset: int,
    ) -> None:
        self._base = base
        self._bank = bank
        self._lock = lock
        self._modules = modules
        self._offset = offset
        self._by_token: frozenset[str] | None = None

    def task_of(self, selection: Selection) -> str | None:
        """The task that a selection's adapters share; None for the base. Raises AdapterNotFound, InvalidExpression."""
        bindings = [self._bank.get(digest) for _, digest in selection]
        tasks = {binding.task for binding in bindings}
        if "text-generation" in tasks:
            tasks.discard(None)  # a plain PEFT folder need not say its task; without a head it has no other
        if len(tasks) > 1:
            raise InvalidExpression(
                f"adapters of unlike tasks cannot be summed: {', '.join(sorted(map(str, tasks)))}"
            )
        return next(iter(tasks), None)

    def check_generation(self, selection: Selection, *, by_token: bool = True) -> None:
        """Whether rows of `selection` can generate; `by_token`: in one pass with rows of any others.

        Raises AdapterNotFound, InvalidExpression (a sum that has no meaning) or UnsupportedAdapter (an adapter with a
        head, or under a module whose input is not the batch's tokens).
        """
        self.task_of(selection)
        self.prefix_of(selection)
        for _, digest in selection:
            binding = self._bank.get(digest)
            if binding.head is not None:
                raise UnsupportedAdapter(
                    f"an adapter for {binding.task} has a head and does not generate",
                    hint="Use it with predict.",
                )
            for path in binding.updates if by_token else ():
                if path not in self._modules_by_token():
                    raise not_by_token(path)

    def prefix_of(self, selection: Selection) -> Prefix | None:
        """The keys and values that stand before a row of `selection`; None for adapters that have none.

        One prefix adapter of weight 1 may go with any others: they add to modules, it adds positions. Raises
        AdapterNotFound; InvalidExpression for two prefixes or another weight, whose attention no weighted sum describes.
        """
        found = [
            (weight, binding) for weight, digest in selection if (binding := self._bank.get(digest)).prefix
        ]
        if not found:
            return None
        if len(selection) > 1 and any(binding.alone for _, binding in found):
            raise InvalidExpression(
                "a prompt-tuning adapter cannot be summed with others: they would change what its tokens mean",
                hint="Use it alone.",
            )
        if len(found) > 1:
            raise InvalidExpression(
                f"{len(found)} prefix adapters cannot be summed",
                hint="Use one, with any others that have none.",
            )
        weight, binding = found[0]
        if weight != 1:
            raise InvalidExpression(
                f"a prefix adapter cannot be weighted, here by {weight:g}", hint="Give it the weight 1."
            )
        return binding.prefix

    def longest(self, selection: Selection) -> int | None:
        """The most tokens a row may have: the base's positions less a prefix's; None where nothing bounds them.

        Raises AdapterNotFound, InvalidExpression.
        """
        return self.room(self.prefix_of(selection))

    def room(self, prefix: Prefix | None) -> int | None:
        """The base's positions less those of `prefix`; None where nothing bounds them."""
        positions = getattr(self._base.model.config, "max_position_embeddings", None)
        taken = self._offset + (prefix.length if prefix else 0)
        return None if positions is None else positions - taken

    def _modules_by_token(self) -> frozenset[str]:
        """The modules that see the tokens of a [1, T] pass as such, one row each: found by running one, once."""
        with self._lock:
            if self._by_token is None:
                self._by_token = by_token(self._base.model, self._modules, self._base.device)
            return self._by_token
