"""Lineage by the tables, against lineage by asking for one manifest after another."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdmissionError
from adapthub.hub import family
from adapthub.hub.access import Caller
from adapthub.hub.lineage import ancestors, descendants, parent_of
from adapthub.hub.registry import Registry, Version
from tests.hub.adapters import manifest, write_adapter

SEEDS = itertools.count()
DAGS = st.lists(st.sets(st.integers(0, 5), max_size=3), min_size=1, max_size=6)


def push(registry: Registry, folder: Path, name: str, parents: list[str]) -> Version:
    seed = next(SEEDS)
    made = manifest(parents=parents, seed=seed)
    return registry.push(write_adapter(folder / str(seed), seed=seed, manifest=made), name)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DAGS)
def test_any_family_is_what_its_manifests_say(
    registry: Registry, tmp_path: Path, parents: list[set[int]]
) -> None:
    """The parents of each version are among those before it; its last name holds two versions."""
    family_name = f"f{next(SEEDS)}"
    made: list[Version] = []
    edges: list[tuple[str, str]] = []
    for number, wanted in enumerate(parents):
        before = [made[one] for one in sorted(wanted) if one < number]
        texts = [parent_of(one) for one in before]
        name = f"{family_name}/a{number if number + 1 < len(parents) else max(number - 1, 0)}"
        made.append(push(registry, tmp_path, name, texts))
        edges += [(made[-1].digest, one.digest) for one in before]
    for version in made:
        reference = f"{version.name}@v{version.number}"
        found, expected = registry.lineage(reference), ancestors(registry, reference)
        assert dict(found.versions) == dict(expected.versions)
        assert (found.root, found.unpinned, found.cut) == (version.digest, (), False)
        assert set(found.descendants) == set(descendants(edges, version.digest))
        assert all(one.found for one in found.descendants.values())


def test_a_long_line_is_cut_and_says_so(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = push(registry, tmp_path, "acme/line", [])
    for _ in range(4):
        version = push(registry, tmp_path, "acme/line", [parent_of(version)])
    monkeypatch.setattr(family, "MAX_VERSIONS", 3)
    assert [one.number for one in registry.lineage("acme/line").versions.values()] == [5, 4, 3]
    assert registry.lineage("acme/line").cut
    assert [one.number for one in registry.lineage("acme/line@v1").descendants.values()] == [2, 3, 4]
    assert registry.lineage("acme/line@v1").cut
    middle = registry.lineage("acme/line@v3")
    assert (len(middle.versions), len(middle.descendants), middle.cut) == (3, 2, False)


def test_no_manifest_names_thousands_of_parents(registry: Registry, tmp_path: Path) -> None:
    parents = [f"acme/a{number}@{number:064x}" for number in range(family.MAX_PARENTS + 1)]
    with pytest.raises(AdmissionError, match="33 parents"):
        push(registry, tmp_path, "acme/merge", parents)
    push(registry, tmp_path, "acme/merge", parents[1:])
    assert len(registry.lineage("acme/merge").versions) == family.MAX_PARENTS + 1
    assert registry.list()[0].versions == 1


def test_parents_that_do_not_fit_are_not_looked_for(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many the versions on one level name together."""
    fathers = [
        push(registry, tmp_path, f"acme/f{one}", [f"acme/a@{one * 100 + number:064x}" for number in range(9)])
        for one in range(3)
    ]
    push(registry, tmp_path, "acme/merge", [parent_of(one) for one in fathers])
    monkeypatch.setattr(family, "MAX_VERSIONS", 8)
    looked_for: list[int] = []
    versions = family._versions

    def noted(session: Session, caller: Caller, names: dict[str, str]) -> dict[str, family.Here]:
        looked_for.append(len(names))
        return versions(session, caller, names)

    monkeypatch.setattr(family, "_versions", noted)
    found = registry.lineage("acme/merge")
    assert (len(found.versions), found.cut) == (8, True)
    assert looked_for == [3, 4, 0]


def test_copies_of_a_child_do_not_hide_others_unsaid(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    father = push(registry, tmp_path, "acme/father", [])
    seed = next(SEEDS)
    made = write_adapter(
        tmp_path / "child", seed=seed, manifest=manifest(parents=[parent_of(father)], seed=seed)
    )
    for number in range(3):
        registry.push(made, f"acme/copy{number}")
    push(registry, tmp_path, "acme/other", [parent_of(father)])
    monkeypatch.setattr(family, "MAX_VERSIONS", 2)
    found = registry.lineage("acme/father")
    assert found.cut or len(found.descendants) == 2
