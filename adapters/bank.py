"""Many adapters' weights side by side: by digest, and by the module of the base that they touch.

Adapters keep their own tensors at their own rank: nothing is padded or moved when another comes or goes, so adding one
costs the same however many are there. Beside them stand the stacks that decoding makes. Does not compute
(delta does) and does not touch models (attach does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapthub.adapters.binder import Binding
from adapthub.adapters.delta import Update
from adapthub.adapters.errors import AdapterNotFound
from adapthub.adapters.stacks import StackBudget, Stacks


class Bank:
    """Bindings by digest, and each module's updates by digest. Not thread-safe: its owner holds the lock."""

    def __init__(self, stack_bytes: int) -> None:
        self.bindings: dict[str, Binding] = {}
        self._modules: dict[str, dict[str, Sequence[Update]]] = {}
        self._stacks: dict[str, Stacks] = {}
        self._budget = StackBudget(stack_bytes)

    def get(self, digest: str) -> Binding:
        """The binding of `digest`. Raises AdapterNotFound."""
        if digest not in self.bindings:
            raise AdapterNotFound(f"adapter {digest[:19]} is not attached", hint="Attach it first.")
        return self.bindings[digest]

    def of_module(self, path: str) -> Mapping[str, Sequence[Update]]:
        """What touches the module at `path`, by digest: a live view."""
        return self._modules.setdefault(path, {})

    def stacks_of(self, path: str) -> Stacks:
        """The stacks of the module at `path`; they end with its last adapter."""
        return self._stacks.setdefault(path, Stacks(self._budget))

    def add(self, binding: Binding) -> None:
        """Put a binding in; the same digest again changes nothing."""
        self.bindings[binding.digest] = binding
        for path, updates in binding.updates.items():
            self._modules.setdefault(path, {})[binding.digest] = updates

    def remove(self, digest: str) -> list[str]:
        """Take a binding out; returns the modules that nothing touches any more. Raises AdapterNotFound."""
        binding = self.get(digest)
        del self.bindings[digest]
        emptied = []
        for path in binding.updates:
            del self._modules[path][digest]
            if not self._modules[path]:
                del self._modules[path]
                if path in self._stacks:
                    self._stacks.pop(path).drop()
                emptied.append(path)
        return emptied
