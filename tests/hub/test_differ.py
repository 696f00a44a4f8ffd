"""Comparisons for a server: once a pair, a few at once, each ending alone; the process that compares is a stand-in here."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapthub.adapters.errors import IntegrityError, Overloaded, TensorMismatch
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.differ import Differ, Side
from adapthub.hub.registry import StoredFile
from adapthub.hub.storage.folder_blobs import FolderBlobs

SCRIPT = """
import pathlib, sys, time
log, before, digest, after, _ = sys.argv[1:]
with open(log, "a") as file:
    file.write(digest + "\\n")
texts = [(pathlib.Path(folder) / "README.md").read_text() for folder in (before, after)]
if "wait" in texts:
    time.sleep(60)
if "fall" in texts:
    sys.exit(9)
if "refuse" in texts:
    print('{"error":["TensorMismatch","a tensor","Save it again."]}')
else:
    print('{"texts":"%s"}' % " ".join(texts))
"""


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def differ(blobs: FolderBlobs, tmp_path: Path) -> Iterator[Differ]:
    differ = Differ(blobs, command=[sys.executable, "-c", SCRIPT, str(tmp_path / "log")])
    yield differ
    differ.close()


def side(blobs: FolderBlobs, text: str) -> Side:
    data = text.encode()
    sha256 = sha256_bytes(data)
    blobs.put(sha256, data, origin="test")
    return Side(f"sha256:{sha256}", [StoredFile("README.md", sha256, len(data))])


def test_a_pair_is_compared_once(differ: Differ, blobs: FolderBlobs, tmp_path: Path) -> None:
    one, two = side(blobs, "one"), side(blobs, "two")
    both = [differ.difference(one, two) for _ in range(3)]
    assert {asked.result(30) for asked in both} == {b'{"texts":"one two"}\n'}
    assert differ.difference(one, two).result(0) == b'{"texts":"one two"}\n'
    assert differ.difference(two, one).result(30) == b'{"texts":"two one"}\n'
    assert (tmp_path / "log").read_text().splitlines() == [one.digest, two.digest]


def test_what_is_refused_and_what_falls(differ: Differ, blobs: FolderBlobs, tmp_path: Path) -> None:
    one = side(blobs, "one")
    for _ in range(2):  # the second time from memory
        with pytest.raises(TensorMismatch, match=r"a tensor\. Save it again"):
            differ.difference(one, side(blobs, "refuse")).result(30)
    assert (tmp_path / "log").read_text().splitlines() == [one.digest]
    with pytest.raises(Overloaded, match="ended before"):
        differ.difference(one, side(blobs, "fall")).result(30)
    lost = Side("sha256:" + "0" * 64, [StoredFile("README.md", "0" * 64, 3)])
    with pytest.raises(IntegrityError):
        differ.difference(one, lost).result(30)
    assert differ.difference(one, one).result(30) == b'{"texts":"one one"}\n'


def test_too_many_are_turned_away_and_a_server_ends_at_once(differ: Differ, blobs: FolderBlobs) -> None:
    slow, others = side(blobs, "wait"), [side(blobs, str(number)) for number in range(18)]
    asked = [differ.difference(slow, other) for other in others]
    with pytest.raises(Overloaded, match="18 comparisons wait"):
        differ.difference(slow, slow)
    assert differ.difference(slow, others[0]) is asked[0]
    differ.close()
    while not all(one.done() for one in asked):
        time.sleep(0.01)
    assert isinstance(asked[0].exception(), Overloaded)
    assert asked[-1].cancelled()
