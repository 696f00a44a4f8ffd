"""The cache: what a hub that is not ours may bring, and what stays when it fails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import AdmissionError, IntegrityError, RevisionNotFound, StorageError
from adapthub.hub.cache import Cache, Files
from tests.hub.adapters import contents, manifest, write_adapter


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_adapter(tmp_path / "made", manifest=manifest())


def bring(artifact: Artifact, calls: list[str] | None = None) -> Callable[[], Files]:
    """A fetch of `artifact`'s files, which notes each call."""

    def fetch() -> Files:
        if calls is not None:
            calls.append(artifact.digest)
        return iter(contents(artifact.path).items())

    return fetch


def refuse() -> Files:
    raise AssertionError("fetched what is in the cache")


def test_the_second_pull_fetches_nothing(tmp_path: Path, artifact: Artifact) -> None:
    first = Cache(tmp_path / "cache").pull(artifact.digest, bring(artifact))
    assert first.path.name == artifact.digest.removeprefix("sha256:")
    assert contents(first.path) == contents(artifact.path)
    assert Cache(tmp_path / "cache").pull(artifact.digest, refuse) == first


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "adapthub.json"])
@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "linked", "joined"])
def test_a_damaged_entry_is_replaced(tmp_path: Path, artifact: Artifact, name: str, damage: str) -> None:
    cache = Cache(tmp_path / "cache")
    file = cache.pull(artifact.digest, bring(artifact)).path / name
    data = file.read_bytes()
    if damage == "changed":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "shortened":
        file.write_bytes(data[:-1])
    elif damage == "joined":
        (file.parent / "extra.bin").write_bytes(b"stowaway")
    else:
        file.unlink()
        if damage == "linked":
            file.symlink_to(artifact.path / name)
    calls: list[str] = []
    assert contents(cache.pull(artifact.digest, bring(artifact, calls)).path) == contents(artifact.path)
    assert len(calls) == 1


def test_an_entry_that_is_another_adapter_is_replaced(tmp_path: Path, artifact: Artifact) -> None:
    other = write_adapter(tmp_path / "other", seed=1, manifest=manifest())
    (tmp_path / "cache").mkdir()
    other.path.rename(tmp_path / "cache" / artifact.digest.removeprefix("sha256:"))
    calls: list[str] = []
    pulled = Cache(tmp_path / "cache").pull(artifact.digest, bring(artifact, calls))
    assert contents(pulled.path) == contents(artifact.path)
    assert len(calls) == 1


def test_a_damaged_entry_that_cannot_be_fetched_again(tmp_path: Path, artifact: Artifact) -> None:
    cache = Cache(tmp_path / "cache")
    folder = cache.pull(artifact.digest, bring(artifact)).path
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')

    def gone() -> Files:
        raise StorageError("the hub is gone", hint="Start it.")

    with pytest.raises(IntegrityError, match=r"adapter_config\.json.*the hub is gone.*Start it\."):
        cache.pull(artifact.digest, gone)


def test_a_fetch_of_something_else_is_refused(tmp_path: Path, artifact: Artifact) -> None:
    other = write_adapter(tmp_path / "other", seed=1)
    with pytest.raises(IntegrityError, match=artifact.digest):
        Cache(tmp_path / "cache").pull(artifact.digest, bring(other))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "name", ["../escaped.json", "/escaped.json", "a/b.json", "..", "evil.py", "a\\b.json", "a\0b"]
)
def test_a_fetched_name_that_does_not_belong_is_refused(
    tmp_path: Path, artifact: Artifact, name: str
) -> None:
    def fetch() -> Files:
        yield from bring(artifact)()
        yield name, b"{}"

    with pytest.raises(AdmissionError):
        Cache(tmp_path / "cache").pull(artifact.digest, fetch)
    assert not list(tmp_path.rglob("escaped*"))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_error_of_a_fetch_is_passed_on_and_leaves_nothing(tmp_path: Path, artifact: Artifact) -> None:
    def fetch() -> Files:
        yield from bring(artifact)()
        raise RevisionNotFound("gone meanwhile")

    with pytest.raises(RevisionNotFound):
        Cache(tmp_path / "cache").pull(artifact.digest, fetch)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_a_killed_fetch_left_is_removed(tmp_path: Path, artifact: Artifact) -> None:
    left = tmp_path / "cache" / f".{artifact.digest.removeprefix('sha256:')}.x1y2z3"
    other = tmp_path / "cache" / ".0000.x1y2z3"
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{")
    Cache(tmp_path / "cache").pull(artifact.digest, bring(artifact))
    assert not left.exists()
    assert other.exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path, artifact: Artifact) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match="cache"):
        Cache(tmp_path / "cache").pull(artifact.digest, bring(artifact))


def test_pulls_at_once_fetch_once(tmp_path: Path, artifact: Artifact) -> None:
    calls: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        pulled = list(
            pool.map(
                lambda _: Cache(tmp_path / "cache").pull(artifact.digest, bring(artifact, calls)), range(8)
            )
        )
    assert {one.path for one in pulled} == {pulled[0].path}
    assert len(calls) == 1
