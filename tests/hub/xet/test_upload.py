"""The facade without HTTP: shards of strangers, what is kept and for how long, tokens."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapthub.adapters.errors import (
    AdaptHubError,
    Forbidden,
    IntegrityError,
    InvalidData,
    NotFound,
    Overloaded,
    StorageError,
    Unauthorized,
)
from adapthub.hub.server.xet import XetFacade, XetLimits
from adapthub.hub.server.xet.chunks import Scheme
from adapthub.hub.server.xet.upload import Upload
from tests.hub.xet.encoding import Xorb, encode_file, encode_shard, encode_term, encode_xorb, shard_of
from tests.hub.xet.memory import MemoryStore

XORB = encode_xorb([b"first ", b"second ", b"third"], [Scheme.PLAIN, Scheme.LZ4, Scheme.GROUPED_LZ4])
OTHER = encode_xorb([b"other"])
Open = Callable[..., XetFacade]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def open_facade(tmp_path: Path, store: MemoryStore) -> Open:
    def opened(secret: bytes = b"secret", **limits: int) -> XetFacade:
        return XetFacade(tmp_path / "xet", store, secret, XetLimits(**limits))

    return opened


def begin(facade: XetFacade, holder: str = "alice") -> Upload:
    """An upload at the address that the facade gives now."""
    grant = facade.grant("acme/ner", holder, "http://hub/")
    return facade.admit(grant.access_token, *grant.cas_url.split("/")[-2:])


def keep(facade: XetFacade, upload: Upload, xorb: Xorb, name: str | None = None) -> bool:
    with upload.receive_xorb(name or xorb.name) as arriving:
        arriving.write(xorb.data)
        return upload.keep_xorb(arriving)


def register(facade: XetFacade, upload: Upload, shard: bytes) -> None:
    with upload.receive() as body:
        body.write(shard)
        upload.store_files(body)


def test_files_of_two_xorbs(open_facade: Open, store: MemoryStore) -> None:
    facade = open_facade()
    upload = begin(facade)
    assert keep(facade, upload, XORB)
    assert not keep(facade, upload, XORB)
    assert keep(facade, upload, OTHER)
    register(facade, upload, shard_of(b"second thirdother", [XORB.term(1, 3), OTHER.term()]))
    assert list(store.files.values()) == [b"second thirdother"]
    assert store.stores[0][0] == "acme/ner"


def test_xorbs_of_an_earlier_upload(open_facade: Open, store: MemoryStore) -> None:
    """Also after the server was started again."""
    facade = open_facade()
    keep(facade, begin(facade), XORB)
    again = open_facade()
    register(again, begin(again), shard_of(b"first ", [XORB.term(0, 1)]))
    assert list(store.files.values()) == [b"first "]


def test_terms_that_are_not_so(open_facade: Open, store: MemoryStore) -> None:
    """Nothing of the shard is stored, not even the file before."""
    facade = open_facade()
    upload = begin(facade)
    keep(facade, upload, XORB)
    name, good = XORB.name, XORB.term()
    verification = good[48:80]
    for term, match in [
        (encode_term(name, 0, 4, 18, verification), "chunks 0 to 4 of xorb .*, which has 3"),
        (encode_term(name, 2**32 - 1, 2**32 - 1, 0, verification), "which has 3"),
        (encode_term(name, 1, 1, 0, verification), "chunks 1 to 1"),
        (encode_term(name, 2, 1, 0, verification), "chunks 2 to 1"),
        (encode_term(name, 0, 3, 17, verification), "17 bytes announced, its chunks have 18"),
        (encode_term(name, 0, 3, 18, bytes(32)), "its verification is not that of chunks 0 to 3"),
    ]:
        before = encode_file(hashlib.sha256(b"first second third").hexdigest(), [good])
        with pytest.raises((InvalidData, IntegrityError), match=match):
            register(facade, upload, encode_shard([before, encode_file("0" * 64, [good, term])]))
    assert store.files == {}


def test_another_sha256(open_facade: Open, store: MemoryStore) -> None:
    facade = open_facade()
    upload = begin(facade)
    keep(facade, upload, XORB)
    with pytest.raises(IntegrityError, match="has the sha256"):
        register(facade, upload, shard_of(b"something else", [XORB.term()]))
    assert store.files == {}
    register(
        facade, upload, shard_of(b"first second third", [XORB.term()])
    )  # the address is as good as before


def test_a_stored_file_has_to_be_had(open_facade: Open, store: MemoryStore) -> None:
    """Its sha256, which pages show, is not enough to refer to it."""
    facade = open_facade()
    upload = begin(facade)
    keep(facade, upload, XORB)
    data = b"first second third"
    store.files = {hashlib.sha256(text).hexdigest(): text for text in (data, b"secret")}
    with pytest.raises(IntegrityError):
        register(facade, upload, shard_of(b"secret", [XORB.term()]))
    register(facade, upload, shard_of(data, [XORB.term()]))
    assert store.stores == [("acme/ner", hashlib.sha256(data).hexdigest())]


def test_a_file_larger_than_may_be(open_facade: Open, store: MemoryStore) -> None:
    """A small xorb, referred to often."""
    facade = open_facade(shard_unpacked_bytes=1 << 20)
    upload = begin(facade)
    zeros = encode_xorb([bytes(100_000)], [Scheme.LZ4])
    keep(facade, upload, zeros)
    with pytest.raises(InvalidData, match="more than 1,048,576"):
        register(facade, upload, shard_of(b"", [zeros.term()] * 11))
    register(facade, upload, shard_of(bytes(1_000_000), [zeros.term()] * 10))


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 20)])
def test_a_xorb_gone_or_damaged(harm: Callable[[Path], None], open_facade: Open, tmp_path: Path) -> None:
    """Uploads that begin after that have another address, where clients believe in nothing."""
    facade = open_facade()
    upload = begin(facade)
    address = facade.grant("acme/ner", "alice", "").cas_url
    keep(facade, upload, XORB)
    harm(next((tmp_path / "xet").rglob(XORB.name)))
    with pytest.raises((InvalidData, StorageError), match="the next upload sends everything"):
        register(facade, upload, shard_of(b"", [XORB.term()]))
    assert facade.grant("acme/ner", "alice", "").cas_url != address
    keep(facade, upload, OTHER)  # those that run go on
    register(facade, upload, shard_of(b"other", [OTHER.term()]))


def test_a_total_of_what_is_kept(open_facade: Open, tmp_path: Path) -> None:
    facade = open_facade(kept_bytes=10_000)
    upload = begin(facade)
    keep(facade, upload, XORB)
    keep(facade, upload, OTHER)
    with pytest.raises(Overloaded, match="keeps 8,192 bytes of uploads"):
        keep(facade, upload, encode_xorb([bytes(5_000)]))
    assert list((tmp_path / "xet" / "incoming").iterdir()) == []
    keep(facade, upload, XORB)  # what is there already takes no room
    with pytest.raises(Overloaded):
        keep(open_facade(kept_bytes=10_000), upload, encode_xorb([bytes(5_000)]))


def test_a_share_of_one_holder(open_facade: Open, store: MemoryStore, tmp_path: Path) -> None:
    store.writers.add("eve")
    facade = open_facade(share_bytes=10_000)
    eve = begin(facade, "eve")
    keep(facade, eve, XORB)
    keep(facade, eve, OTHER)
    large = encode_xorb([bytes(5_000)])
    with pytest.raises(Overloaded, match="8,192 bytes of your uploads"):
        keep(facade, eve, large)
    keep(facade, begin(facade), large)
    (folder,) = (tmp_path / "xet" / "1").iterdir()
    facade.kept.retire(folder)
    age(folder, 3 * 3600)
    facade.sweep()
    keep(facade, begin(facade, "eve"), large)  # there is room again


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_generation_goes_when_no_upload_uses_it(open_facade: Open, tmp_path: Path) -> None:
    facade = open_facade(kept_bytes=10_000)
    upload = begin(facade)
    keep(facade, upload, XORB)
    (old,) = (tmp_path / "xet" / "1").iterdir()
    age(old, 3 * 3600)
    facade.sweep()
    assert old.exists()  # new uploads still refer to it
    facade.kept.retire(old)
    facade.sweep()
    assert not old.exists()
    with pytest.raises(StorageError, match="then upload again"):
        keep(facade, upload, OTHER)
    keep(facade, begin(facade), encode_xorb([bytes(8_000)]))  # there is room again


def test_a_retired_generation_in_use_stays(open_facade: Open, store: MemoryStore, tmp_path: Path) -> None:
    facade = open_facade()
    grant = facade.grant("acme/ner", "alice", "")
    (old,) = (tmp_path / "xet" / "1").iterdir()
    age(old, 3 * 3600)
    facade.kept.retire(old)
    renewed = facade.grant("acme/ner", "alice", "")  # for a new address, used at the old one: clients do so
    upload = facade.admit(renewed.access_token, *grant.cas_url.split("/")[-2:])
    facade.sweep()
    keep(facade, upload, XORB)
    register(facade, upload, shard_of(b"first ", [XORB.term(0, 1)]))
    assert len(store.files) == 1


def test_old_generations_are_not_used_anew(open_facade: Open) -> None:
    facade = open_facade(generation_seconds=0)
    assert facade.grant("a/b", "alice", "").cas_url != facade.grant("a/b", "alice", "").cas_url


def test_bodies_of_killed_processes_go(open_facade: Open, tmp_path: Path) -> None:
    facade = open_facade()
    left, young = (tmp_path / "xet" / "incoming" / name for name in ("left", "young"))
    for path in (left, young):
        path.write_bytes(b"x")
    age(left, 25 * 3600)
    facade.sweep()
    assert not left.exists()
    assert young.exists()


def test_a_raised_epoch(open_facade: Open, store: MemoryStore, tmp_path: Path) -> None:
    facade = open_facade()
    before = facade.grant("acme/ner", "alice", "http://hub")
    keep(facade, begin(facade), XORB)
    store.current_epoch = 2
    after = facade.grant("acme/ner", "alice", "http://hub")
    assert after.cas_url.startswith("http://hub/xet/2/")
    old, new = (grant.cas_url.split("/")[-2:] for grant in (before, after))
    for token, address in [(before, old), (before, new), (after, old)]:
        with pytest.raises(Unauthorized, match="its epoch is 2 now"):
            facade.admit(token.access_token, *address)
    facade.sweep()
    assert not (tmp_path / "xet" / "1").exists()
    with pytest.raises(InvalidData, match="is not kept here"):
        register(facade, begin(facade), shard_of(b"first ", [XORB.term(0, 1)]))


def test_tokens(open_facade: Open, store: MemoryStore) -> None:
    facade = open_facade()
    grant = facade.grant("acme/ner", "alice", "http://hub")
    epoch, generation = grant.cas_url.split("/")[-2:]
    assert grant.body == {"casUrl": grant.cas_url, "accessToken": grant.access_token, "exp": grant.expires}
    assert 3590 < grant.expires - time.time() <= 3600
    bad: list[tuple[XetFacade, str, type[AdaptHubError], str]] = [
        (facade, "", Unauthorized, "not of this hub"),
        (facade, "ÿ.ÿ.ÿ", Unauthorized, "not of this hub"),
        (facade, grant.access_token[:-1], Unauthorized, "not of this hub"),
        (open_facade(b"another"), grant.access_token, Unauthorized, "not of this hub"),
        (open_facade(token_seconds=-1), grant.access_token, Unauthorized, "has expired"),
    ]
    for one, token, kind, match in bad:
        with pytest.raises(kind, match=match):
            one.admit(token, epoch, generation)
    for name in ("..", "../1", "", "x", generation + "0"):
        with pytest.raises(NotFound, match="Upload the files again"):
            facade.admit(grant.access_token, epoch, name)
    facade.admit(grant.access_token, epoch, generation)
    store.writers.clear()
    with pytest.raises(Forbidden, match="acme/ner is no longer allowed"):
        facade.admit(grant.access_token, epoch, generation)


def test_a_folder_that_cannot_be_used(tmp_path: Path, store: MemoryStore) -> None:
    (tmp_path / "xet").write_bytes(b"a file")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        XetFacade(tmp_path / "xet", store, b"secret")
