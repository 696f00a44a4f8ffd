"""Any sequence of calls on a registry, against a model of it in plain dictionaries."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import AdapterNotFound, RevisionNotFound
from adapthub.hub.registry import Registry
from tests.hub.adapters import write_adapter

NAMES = st.sampled_from(["acme/ner", "acme/ner", "acme/ner", "acme/other"])
ALIASES = st.sampled_from(["prod", "prod", "prod", "beta"])
NUMBERS = st.integers(1, 4)


class Against(RuleBasedStateMachine):
    """`versions[name]` are digests, oldest first; `past[name, alias]` the numbers it can be walked back
    through."""

    open: Callable[[Path], Registry]
    adapters: list[Artifact]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.registry = self.open(Path(self.folder.name))
        self.versions: dict[str, list[str]] = {}
        self.past: dict[tuple[str, str], list[int]] = {}
        self.moves: dict[tuple[str, str], int] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(name=NAMES, which=st.integers(0, 3), alias=st.none() | ALIASES)
    def push(self, name: str, which: int, alias: str | None) -> None:
        adapter = self.adapters[which]
        known = self.versions.setdefault(name, [])
        version = self.registry.push(adapter, name, alias=alias)
        assert version.repeated == (adapter.digest in known)
        if not version.repeated:
            known.append(adapter.digest)
        assert version.number == known.index(adapter.digest) + 1
        if alias is not None:
            self._move(name, alias, version.number)

    @rule(name=NAMES, number=NUMBERS, alias=ALIASES)
    def promote(self, name: str, number: int, alias: str) -> None:
        if number > len(self.versions.get(name, [])):
            with pytest.raises((AdapterNotFound, RevisionNotFound)):
                self.registry.promote(f"{name}@v{number}", alias)
            return
        assert self.registry.promote(f"{name}@v{number}", alias).number == number
        self._move(name, alias, number)

    @rule(name=NAMES, alias=ALIASES)
    def rollback(self, name: str, alias: str) -> None:
        past = self.past.get((name, alias), [])
        if len(past) < 2:
            with pytest.raises((AdapterNotFound, RevisionNotFound)):
                self.registry.rollback(name, alias)
            return
        past.pop()
        self.moves[name, alias] += 1
        assert self.registry.rollback(name, alias).number == past[-1]

    @rule(name=NAMES, number=NUMBERS)
    def pull(self, name: str, number: int) -> None:
        if number <= len(self.versions.get(name, [])):
            assert self.registry.pull(f"{name}@v{number}").digest == self.versions[name][number - 1]

    @rule()
    def open_again(self) -> None:
        self.registry = self.open(Path(self.folder.name))

    @invariant()
    def lists_what_the_model_says(self) -> None:
        entries = {entry.name: entry for entry in self.registry.list()}
        assert {name: entry.versions for name, entry in entries.items()} == {
            name: len(digests) for name, digests in self.versions.items() if digests
        }
        for name, entry in entries.items():
            assert entry.latest.digest == self.versions[name][-1]
            assert entry.aliases == {alias: past[-1] for (of, alias), past in self.past.items() if of == name}

    @rule(name=NAMES)
    def show(self, name: str) -> None:
        if name in self.versions:
            details = self.registry.show(name)
            assert [version.digest for version in details.versions] == self.versions[name][::-1]
            for alias in details.aliases:
                assert len(alias.history) == self.moves[name, alias.name]
                assert alias.history[-1].target == alias.number == self.past[name, alias.name][-1]
                assert self.registry.resolve(f"{name}@{alias.name}").number == alias.number

    def _move(self, name: str, alias: str, number: int) -> None:
        past = self.past.setdefault((name, alias), [])
        if not past or past[-1] != number:
            past.append(number)
            self.moves[name, alias] = self.moves.get((name, alias), 0) + 1


def test_any_sequence_of_calls(open_registry: Callable[[Path], Registry], tmp_path: Path) -> None:
    adapters = [write_adapter(tmp_path / str(seed), seed=seed) for seed in range(4)]
    machine = type("Machine", (Against,), {"open": staticmethod(open_registry), "adapters": adapters})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=4, stateful_step_count=25, deadline=None)
    )
