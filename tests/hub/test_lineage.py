"""Parents in manifests, as a graph over any registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapthub.adapters.errors import AdapterNotFound
from adapthub.hub import lineage
from adapthub.hub.lineage import ancestors, descendants, edges_of, parent_of
from adapthub.hub.registry import Registry, Version
from tests.hub.adapters import manifest, write_adapter


class Family:
    """Pushes adapters with parents."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry, self.folder, self.count = registry, folder, 0

    def push(self, name: str, *parents: Version | str) -> Version:
        self.count += 1
        texts = [parent if isinstance(parent, str) else parent_of(parent) for parent in parents]
        folder = self.folder / str(self.count)
        artifact = write_adapter(folder, seed=self.count, manifest=manifest(parents=texts))
        return self.registry.push(artifact, name)


@pytest.fixture
def family(registry: Registry, tmp_path: Path) -> Family:
    return Family(registry, tmp_path / "made")


def test_a_merge_of_a_warm_start_and_another(family: Family) -> None:
    old, other = family.push("acme/tone"), family.push("acme/law")
    warm = family.push("acme/tone", old)
    merged = family.push("acme/both", warm, other)
    alone = family.push("acme/alone")
    found = ancestors(family.registry, "acme/both")
    assert found.root == merged.digest
    assert [(version.name, version.number) for version in found.versions.values()] == [
        ("acme/both", 1),
        ("acme/tone", 2),
        ("acme/law", 1),
        ("acme/tone", 1),
    ]
    assert found.versions[merged.digest].parents == (warm.digest, other.digest)
    assert all(version.found for version in found.versions.values())
    assert (found.unpinned, found.cut) == ((), False)
    edges = edges_of(family.registry)
    assert descendants(edges, old.digest) == (warm.digest, merged.digest)
    assert descendants(edges, other.digest) == (merged.digest,)
    assert descendants(edges, merged.digest) == descendants(edges, alone.digest) == ()


def test_a_parent_of_two_children_is_there_once(family: Family) -> None:
    root = family.push("acme/root")
    left, right = family.push("acme/left", root), family.push("acme/right", root)
    last = family.push("acme/last", left, right)
    assert len(ancestors(family.registry, "acme/last").versions) == 4
    assert descendants(edges_of(family.registry), root.digest) == (left.digest, right.digest, last.digest)


def test_parents_that_are_not_here_or_not_pinned(family: Family) -> None:
    here = family.push("acme/here")
    gone, elsewhere = "acme/gone@" + "a" * 64, "hub::acme/here@" + here.digest.removeprefix("sha256:")
    wrong = "acme/here@" + "b" * 64
    family.push("acme/child", gone, elsewhere, wrong, "acme/here@v1", "acme/here", "free words\n")
    found = ancestors(family.registry, "acme/child")
    assert {v.name: v.found for digest, v in found.versions.items() if digest == "sha256:" + "a" * 64} == {
        "acme/gone": False
    }
    assert not found.versions[here.digest].found  # another hub's word
    assert not found.versions["sha256:" + "b" * 64].found
    assert found.unpinned == ("acme/here@v1", "acme/here", "free words\n")


def test_a_plain_folder_has_no_parents(registry: Registry, tmp_path: Path) -> None:
    version = registry.push(write_adapter(tmp_path / "plain"), "acme/plain")
    found = ancestors(registry, "acme/plain@v1")
    assert list(found.versions) == [version.digest]
    with pytest.raises(AdapterNotFound):
        ancestors(registry, "acme/nothing")


def test_a_long_line_is_cut_and_says_so(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    version = family.push("acme/line")
    for _ in range(4):
        version = family.push("acme/line", version)
    assert len(ancestors(family.registry, "acme/line").versions) == 5
    monkeypatch.setattr(lineage, "MAX_VERSIONS", 5)
    assert not ancestors(family.registry, "acme/line").cut
    monkeypatch.setattr(lineage, "MAX_VERSIONS", 3)
    cut = ancestors(family.registry, "acme/line")
    assert (len(cut.versions), cut.cut) == (3, True)


def test_descendants_of_a_circle_end() -> None:
    """No digest can be in its own past; what a stranger's manifest claims can."""
    assert descendants([("b", "a"), ("a", "b"), ("c", "b")], "a") == ("b", "c")
