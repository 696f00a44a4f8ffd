"""Signatures of adapters: made and verified offline, with a key of one's own.

What is signed is the path and the sha256 of every file, so exactly what the adapter's digest covers. The signature is a
sigstore bundle (v0.3) around a DSSE envelope around an in-toto statement of the OpenSSF's model-signing 1.0: that tool
verifies ours, and we verify its. It lies beside the adapter as `model.sig`, which is no part of the digest.

Works on digests, not on folders: a hub verifies what it stores without writing it out, which model-signing's own functions
cannot. Knows no hub, and decides nothing about trust: the keys are given.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from adapthub.adapters.admission import IGNORED, MAX_BYTES, SIGNATURE
from adapthub.adapters.description import digest_of
from adapthub.adapters.errors import AdmissionError, SignatureError
from adapthub.adapters.manifest import Sha256
from adapthub.adapters.strict_json import parse_json_object
from adapthub.hub.signing_keys import PublicKey, hash_of

_PAYLOAD = "application/vnd.in-toto+json"
_AGAIN = "Get the adapter again from whom you trust, or have it signed anew."


def sign(files: Mapping[str, str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """A bundle over the files of an adapter (sha256 by name)."""
    ordered = sorted(files.items())
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": digest_of(files), "digest": {"sha256": _root(dict(ordered))}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(IGNORED),
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": sha256} for name, sha256 in ordered
            ],
        },
    }
    payload = json.dumps(statement, separators=(",", ":")).encode()
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": PublicKey.of("", key.public_key()).id},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [
                {
                    "sig": base64.b64encode(
                        key.sign(_encoded(payload), ec.ECDSA(hash_of(key.curve)))
                    ).decode(),
                    "keyid": "",
                }
            ],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def verify(
    bundle: bytes | None, files: Mapping[str, str], keys: Sequence[PublicKey], where: str
) -> PublicKey:
    """The one of `keys` that signed exactly these files (sha256 by name). `where` names the adapter in errors.

    Raises SignatureError: there is no signature (None), it is damaged, by a key that is not among `keys`, or over
    other files, which are named.
    """
    if bundle is None:
        raise SignatureError(f"{where} is not signed", hint="Have it signed: adapt sign.")
    signed = _read(bundle, where)
    key = _key_of(signed, keys, where)
    _check_files(_statement(signed.payload, where), files, where)
    return key


def check_is_of(bundle: bytes, files: Mapping[str, str], where: str) -> str:
    """The id of the key that `bundle` names. Raises SignatureError where it does not read or is over other files.

    Says nothing about who made it: that takes `verify`.
    """
    signed = _read(bundle, where)
    _check_files(_statement(signed.payload, where), files, where)
    return signed.key_id


@dataclass(frozen=True)
class _Signed:
    """A bundle's parts, not verified."""

    payload: bytes
    signature: bytes
    key_id: str


def _decoded(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


class _Part(BaseModel):
    """A part of the format. What is not named here belongs to other ways of signing, and is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


_Base64 = Annotated[bytes, BeforeValidator(_decoded)]


class _Signature(_Part):
    sig: _Base64


class _Envelope(_Part):
    payload: _Base64
    payloadType: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


class _KeyHint(_Part):
    hint: Sha256


class _Material(_Part):
    publicKey: _KeyHint


class _Bundle(_Part):
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verificationMaterial: _Material
    dsseEnvelope: _Envelope


class _Resource(_Part):
    name: str
    algorithm: Literal["sha256"]
    digest: Sha256


class _Predicate(_Part):
    resources: list[_Resource]


class _RootDigest(_Part):
    sha256: Sha256


class _Subject(_Part):
    digest: _RootDigest


class _Statement(_Part):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    predicateType: Literal["https://model_signing/signature/v1.0"]
    subject: Annotated[list[_Subject], Field(min_length=1, max_length=1)]
    predicate: _Predicate


_Model = TypeVar("_Model", bound=BaseModel)


def _read(bundle: bytes, where: str) -> _Signed:
    where = f"the signature of {where}"
    if len(bundle) > MAX_BYTES[SIGNATURE]:
        raise SignatureError(f"{where} has more than {MAX_BYTES[SIGNATURE]} bytes", hint=_AGAIN)
    parsed = _validated(_Bundle, bundle, where)
    envelope = parsed.dsseEnvelope
    return _Signed(envelope.payload, envelope.signatures[0].sig, parsed.verificationMaterial.publicKey.hint)


def _statement(payload: bytes, where: str) -> dict[str, str]:
    """The files (sha256 by name) that a payload states."""
    statement = _validated(_Statement, payload, f"what the signature of {where} states")
    stated = {resource.name: resource.digest for resource in statement.predicate.resources}
    if len(stated) != len(statement.predicate.resources):
        raise SignatureError(f"the signature of {where} states a file twice", hint=_AGAIN)
    if _root(stated) != statement.subject[0].digest.sha256:
        raise SignatureError(f"the signature of {where} contradicts itself: its files are not its subject")
    return stated


def _validated(model: type[_Model], data: bytes, where: str) -> _Model:
    try:
        return model.model_validate(parse_json_object(data, where))
    except AdmissionError as error:
        raise SignatureError(error.message, hint=_AGAIN) from error
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise SignatureError(
            f"{where} is none of model-signing: {field!r} is missing or wrong", hint=_AGAIN
        ) from error


def _key_of(signed: _Signed, keys: Sequence[PublicKey], where: str) -> PublicKey:
    """The key that signed. Raises SignatureError where none of `keys` did."""
    key = next((key for key in keys if key.id == signed.key_id), None)
    if key is None:
        trusted = ", ".join(f"{key.name} ({key.id[:12]})" for key in keys) or "none"
        raise SignatureError(
            f"{where} is signed by the key {signed.key_id[:12]}, which is not trusted here (trusted: {trusted})",
            hint="If you know whose key that is: adapt key trust NAME FILE.",
        )
    try:
        key.key.verify(signed.signature, _encoded(signed.payload), ec.ECDSA(hash_of(key.key.curve)))
    except InvalidSignature as error:
        raise SignatureError(
            f"the signature of {where} names the key {key.name}, which did not make it", hint=_AGAIN
        ) from error
    return key


def _check_files(stated: Mapping[str, str], files: Mapping[str, str], where: str) -> None:
    """The files are those stated. Raises SignatureError naming those that are not."""
    for what, names in (
        ("lacks {}, which was signed", stated.keys() - files.keys()),
        ("has {}, which was not signed", files.keys() - stated.keys()),
        (
            "has another {} than was signed",
            {name for name in stated.keys() & files.keys() if stated[name] != files[name]},
        ),
    ):
        if names:
            raise SignatureError(f"{where} {what.format(', '.join(map(repr, sorted(names))))}", hint=_AGAIN)


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed in truth."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _root(files: Mapping[str, str]) -> str:
    """model-signing's digest of a whole: over the raw digests in the order of the names."""
    return hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files))).hexdigest()
