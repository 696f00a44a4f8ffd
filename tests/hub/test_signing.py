"""Signatures: made and verified here and by the OpenSSF's model-signing itself; whatever was touched is refused by name."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import AdaptHubError, Conflict, InvalidInput, NotFound, SignatureError
from adapthub.hub.signing import check_is_of, sign, verify
from adapthub.hub.signing_keys import (
    PublicKey,
    create_key,
    private_key,
    public_key,
    trust,
    trusted_file,
    trusted_keys,
    untrust,
)
from tests.hub.adapters import manifest, write_adapter

KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
TRUSTED = (PublicKey.of("releases", KEY.public_key()),)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A folder with a manifest, a card and its signature."""
    artifact = write_adapter(tmp_path / "signed", manifest=manifest(), card="# A card\n")
    (artifact.path / "model.sig").write_bytes(sign(artifact.sha256s, KEY))
    return artifact.path


def check(folder: Path, keys: tuple[PublicKey, ...] = TRUSTED) -> PublicKey:
    artifact = Artifact.read(folder)
    return verify(artifact.signature, artifact.sha256s, keys, "acme/ner")


def refusal(folder: Path) -> str | None:
    """Why the folder is refused; None where it verifies."""
    try:
        check(folder)
    except AdaptHubError as error:
        return str(error)
    return None


def edited(bundle: bytes, edit: Callable[[dict[str, Any], dict[str, Any]], object], key: Any = None) -> bytes:
    """The bundle after `edit(bundle, statement)`, signed anew if there is a `key`."""
    document = json.loads(bundle)
    envelope = document["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    edit(document, statement)
    payload = json.dumps(statement).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    if key is not None:
        kind = "application/vnd.in-toto+json"
        message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        from cryptography.hazmat.primitives import hashes

        envelope["signatures"] = [
            {"sig": base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA256()))).decode()}
        ]
    return json.dumps(document).encode()


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_was_signed_verifies_and_the_digest_stays(signed: Path) -> None:
    assert check(signed) == TRUSTED[0]
    digest = Artifact.read(signed).digest
    (signed / "model.sig").unlink()
    assert Artifact.read(signed).digest == digest


@pytest.mark.parametrize(
    "curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name
)
def test_every_curve(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    files = {"README.md": "a" * 64}
    assert verify(sign(files, key), files, (PublicKey.of("k", key.public_key()),), "x").name == "k"


def test_model_signing_verifies_ours_and_we_verify_its(signed: Path) -> None:
    """And each refuses what was changed after the other signed."""
    ours, signature = create_key("releases"), signed / "model.sig"
    key, public = trusted_file("releases").parent.parent / "releases.pem", trusted_file("releases")
    signature.write_bytes(sign(Artifact.read(signed).sha256s, private_key("releases")))
    theirs: list[str | Path] = ["verify", "key", signed, "--signature", signature, "--public_key", public]
    assert model_signing(*theirs).returncode == 0
    signature.unlink()
    made = model_signing("sign", "key", signed, "--signature", signature, "--private_key", key)
    assert made.returncode == 0, made.stderr
    assert check(signed, (ours,)) == ours
    signature.write_bytes(sign(Artifact.read(signed).sha256s, private_key("releases")))
    (signed / "README.md").write_text("# Another card\n")
    assert model_signing(*theirs).returncode != 0


def test_a_file_that_differs_is_missing_or_was_added_is_named(tmp_path: Path) -> None:
    """In a plain PEFT folder, where no manifest would notice."""
    artifact = write_adapter(tmp_path / "plain", card="# A card\n")
    (artifact.path / "model.sig").write_bytes(sign(artifact.sha256s, KEY))
    for name in artifact.files:
        shutil.copytree(artifact.path, tmp_path / name)
        data = bytearray((tmp_path / name / name).read_bytes())
        data[-3] ^= 1
        (tmp_path / name / name).write_bytes(data)
        with pytest.raises(AdaptHubError, match=name):
            check(tmp_path / name)
    (artifact.path / "notes.md").write_text("mine")
    with pytest.raises(SignatureError, match=r"acme/ner has 'notes\.md', which was not signed"):
        check(artifact.path)
    (artifact.path / "notes.md").unlink()
    (artifact.path / "README.md").unlink()
    with pytest.raises(SignatureError, match=r"acme/ner lacks 'README\.md', which was signed"):
        check(artifact.path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_edit_of_any_file_is_refused(signed: Path, data: st.DataObject) -> None:
    """The signature itself too, unless the edit changes nothing that it says."""
    path = signed / data.draw(st.sampled_from(sorted(file.name for file in signed.iterdir())))
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before) - 1))
    removed, inserted = data.draw(st.integers(0, 3)), data.draw(st.binary(max_size=3))
    after = before[:position] + inserted + before[position + removed :]
    assume(after != before)
    path.write_bytes(after)
    try:
        said = refusal(signed)
    finally:
        path.write_bytes(before)
    if said is not None:
        assert "\n" not in said
    else:
        assert path.name == "model.sig"
        parts = [json.loads(text)["dsseEnvelope"] for text in (before, after)]
        assert parts[0]["payload"] == parts[1]["payload"]


def test_a_wrong_key_is_named(signed: Path) -> None:
    other = PublicKey.of("partner", OTHER.public_key())
    with pytest.raises(SignatureError, match=rf"{TRUSTED[0].id[:12]}.*partner \({other.id[:12]}\)"):
        check(signed, (other,))
    with pytest.raises(SignatureError, match="trusted: none"):
        check(signed, ())
    assert check(signed, (other, *TRUSTED)) == TRUSTED[0]


def test_another_keys_signature_under_a_trusted_keys_name(signed: Path) -> None:
    bundle = edited((signed / "model.sig").read_bytes(), lambda *_: None, key=OTHER)
    (signed / "model.sig").write_bytes(bundle)
    with pytest.raises(SignatureError, match="names the key releases, which did not make it"):
        check(signed)


def test_no_signature(signed: Path) -> None:
    (signed / "model.sig").unlink()
    with pytest.raises(SignatureError, match="acme/ner is not signed"):
        check(signed)


def test_every_truncation_is_refused(signed: Path) -> None:
    whole, files = (signed / "model.sig").read_bytes(), Artifact.read(signed).sha256s
    for length in range(0, len(whole), 7):
        with pytest.raises(SignatureError, match="the signature of acme/ner"):
            verify(whole[:length], files, TRUSTED, "acme/ner")


def twice(_: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"] *= 2


def less(_: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"].pop()


def blake(_: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"][0]["algorithm"] = "blake3"


def two_subjects(_: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["subject"] *= 2


def other_predicate(_: dict[str, Any], statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://slsa.dev/provenance/v1"


def no_statement(_: dict[str, Any], statement: dict[str, Any]) -> None:
    statement.clear()


def two_signatures(bundle: dict[str, Any], _: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] *= 2


def a_certificate(bundle: dict[str, Any], _: dict[str, Any]) -> None:
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": "AAAA"}}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (twice, "states a file twice"),
        (less, "contradicts itself"),
        (blake, "algorithm"),
        (two_subjects, "subject"),
        (other_predicate, "predicateType"),
        (no_statement, "_type"),
    ],
)
def test_a_statement_that_a_trusted_key_signed_and_that_says_something_else(
    signed: Path, edit: Callable[[dict[str, Any], dict[str, Any]], object], words: str
) -> None:
    bundle = edited((signed / "model.sig").read_bytes(), edit, key=KEY)
    with pytest.raises(SignatureError, match=words):
        verify(bundle, Artifact.read(signed).sha256s, TRUSTED, "acme/ner")


@pytest.mark.parametrize(("edit", "words"), [(two_signatures, "signatures"), (a_certificate, "publicKey")])
def test_bundles_of_other_kinds(
    signed: Path, edit: Callable[[dict[str, Any], dict[str, Any]], object], words: str
) -> None:
    bundle = edited((signed / "model.sig").read_bytes(), edit)
    with pytest.raises(SignatureError, match=words):
        verify(bundle, Artifact.read(signed).sha256s, TRUSTED, "acme/ner")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"a":1,"a":2}', b"x" * 2**18 + b"x", b"[" * 9999]
)
def test_what_is_no_bundle(data: bytes) -> None:
    with pytest.raises(SignatureError, match="the signature of x") as refused:
        verify(data, {}, TRUSTED, "x")
    assert "\n" not in str(refused.value)


def test_a_statement_is_checked_before_its_key_is_known(signed: Path) -> None:
    """What push asks: is this signature of these files?"""
    bundle, files = (signed / "model.sig").read_bytes(), Artifact.read(signed).sha256s
    assert check_is_of(bundle, files, "x") == TRUSTED[0].id
    with pytest.raises(SignatureError, match=r"x has another 'README\.md' than was signed"):
        check_is_of(bundle, {**files, "README.md": "0" * 64}, "x")


def test_keys_are_made_trusted_and_no_longer(own_home: Path, tmp_path: Path) -> None:
    made = create_key("releases")
    private = own_home / "keys" / "releases.pem"
    assert private.stat().st_mode & 0o077 == 0
    assert trusted_keys() == (made,)
    assert PublicKey.of("releases", private_key().public_key()) == made
    with pytest.raises(Conflict, match="releases"):
        create_key("releases")
    shutil.copy(trusted_file("releases"), tmp_path / "partner.pub")
    with pytest.raises(Conflict, match="releases"):
        trust("releases", tmp_path / "partner.pub")
    assert trust("partner", tmp_path / "partner.pub").id == made.id
    assert untrust("releases").id == made.id
    assert [key.name for key in trusted_keys()] == ["partner"]
    assert private.exists()


def test_keys_that_are_not_there_or_no_keys(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no key here"):
        private_key()
    create_key("releases")
    create_key("nightly")
    with pytest.raises(NotFound, match="nightly, releases"):
        private_key()
    with pytest.raises(NotFound, match="Did you mean"):
        private_key("release")
    for name in ("", "../x", "a b", "x" * 65):
        with pytest.raises(InvalidInput, match="name for a key"):
            create_key(name)
    openssl(tmp_path, "genrsa -out rsa.pem 2048", "rsa -in rsa.pem -pubout -out rsa.pub")
    openssl(
        tmp_path,
        "ecparam -name secp256k1 -genkey -noout -out k1.pem",
        "ec -in k1.pem -aes128 -passout pass:x -out e.pem",
    )
    (tmp_path / "text.pem").write_text("words")
    (tmp_path / "large.pem").write_bytes(b"x" * 70_000)
    for file, words in (
        ("rsa.pem", "not an elliptic-curve key"),
        ("k1.pem", "secp256k1"),
        ("e.pem", "encrypted"),
        ("text.pem", "not a private key"),
        ("large.pem", "too large"),
    ):
        with pytest.raises(InvalidInput, match=words):
            private_key(str(tmp_path / file))
    for file, words in (("rsa.pub", "not an elliptic-curve key"), ("text.pem", "not a public key")):
        with pytest.raises(InvalidInput, match=words):
            public_key(str(tmp_path / file))


def test_a_key_that_openssl_made_signs(signed: Path, tmp_path: Path) -> None:
    openssl(
        tmp_path,
        "ecparam -name prime256v1 -genkey -noout -out own.pem",
        "ec -in own.pem -pubout -out own.pub",
    )
    key = private_key(str(tmp_path / "own.pem"))
    (signed / "model.sig").write_bytes(sign(Artifact.read(signed).sha256s, key))
    assert check(signed, (public_key(str(tmp_path / "own.pub")),)).name == "own"


def openssl(folder: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
