"""Keys that sign adapters, and keys that are trusted: elliptic curves (P-256, P-384, P-521) in PEM, as openssl makes them.

    keys/NAME.pem            a private key of one's own, readable by its owner alone
    keys/trusted/NAME.pub    a public key whose signatures are believed

Both below AdaptHub's home. Signs and verifies nothing (hub/signing does), and talks to nobody: a public key is trusted
because somebody put it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from adapthub.adapters.errors import Conflict, InvalidInput, NotFound
from adapthub.adapters.files import sha256_bytes, write_bytes
from adapthub.adapters.home import home
from adapthub.adapters.suggest import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
# As model-signing has it: a hash as long as the curve.
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_LARGEST_FILE = 2**16


@dataclass(frozen=True)
class PublicKey:
    """A key that verifies. `id` is the sha256 of its PEM text, as a bundle names the key that signed it."""

    name: str
    key: ec.EllipticCurvePublicKey = field(compare=False, repr=False)
    id: str

    @classmethod
    def of(cls, name: str, key: ec.EllipticCurvePublicKey) -> PublicKey:
        """The key under a name by which errors speak of it."""
        return cls(name, key, sha256_bytes(_pem(key)))

    @property
    def pem(self) -> str:
        """Its text."""
        return _pem(self.key).decode()


def create_key(name: str) -> PublicKey:
    """Make a private key `name` and trust its public half. Raises Conflict where the name is taken."""
    private, public = _private_path(name), _trusted_path(name)
    for path in (private, public):
        if path.exists():
            raise Conflict(f"there is a key {name!r} already: {path}", hint="Choose another name.")
    key = ec.generate_private_key(ec.SECP256R1())
    write_bytes(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_bytes(public, _pem(key.public_key()))
    return PublicKey.of(name, key.public_key())


def private_key(word: str | None = None) -> ec.EllipticCurvePrivateKey:
    """The private key in the file `word`, or the one of that name; without a word the only one there is.

    Raises NotFound with near names, InvalidInput for a file that is no such key or is encrypted.
    """
    names = sorted(path.stem for path in _keys().glob("*.pem"))
    if word is None:
        if len(names) != 1:
            have = (
                f"there are {len(names)} keys here: {', '.join(names)}" if names else "there is no key here"
            )
            raise NotFound(have, hint="Name one, or make one: adapt key create NAME.")
        word = names[0]
    path = _find(word, _private_path, names)
    try:
        key = load_pem_private_key(_read(path), password=None)
    except TypeError as error:
        raise InvalidInput(
            f"{path} is encrypted", hint="Decrypt it for as long as you sign: openssl ec -in KEY -out PLAIN."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} is not a private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput(f"{path} is not an elliptic-curve key", hint="Make one: adapt key create NAME.")
    _check_curve(key.curve, str(path))
    return key


def public_key(word: str) -> PublicKey:
    """The public key in the file `word`, or the trusted one of that name. Raises as `private_key`."""
    path = _find(word, _trusted_path, [key.stem for key in _trusted().glob("*.pub")])
    return parse_public_key(_read(path), path.stem, where=str(path))


def parse_public_key(data: bytes, name: str, *, where: str | None = None) -> PublicKey:
    """The public key of this PEM text, called `name`. Raises InvalidInput, naming `where` it comes from."""
    where = where or f"the key {name}"
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{where} is not a public key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidInput(f"{where} is not an elliptic-curve key")
    _check_curve(key.curve, where)
    return PublicKey.of(name, key)


def trust(name: str, file: Path) -> PublicKey:
    """Believe signatures by the public key in `file`, from now on called `name`. Raises Conflict, InvalidInput."""
    target = _trusted_path(name)
    key = public_key(str(file)).key
    if target.exists():
        raise Conflict(
            f"a key {name!r} is trusted already", hint=f"End that first: adapt key untrust {name}."
        )
    write_bytes(target, _pem(key))
    return PublicKey.of(name, key)


def untrust(name: str) -> PublicKey:
    """Believe signatures by the key `name` no longer, and return it. A private key of that name stays."""
    path = _trusted_path(name)
    key = public_key(str(_find(name, _trusted_path, [found.name for found in trusted_keys()])))
    path.unlink()
    return key


def trusted_keys() -> tuple[PublicKey, ...]:
    """Every key that is trusted, by name."""
    return tuple(public_key(str(path)) for path in sorted(_trusted().glob("*.pub")))


def trusted_file(name: str) -> Path:
    """Where the trusted key `name` lies, to be given to others."""
    return _trusted_path(name)


def hash_of(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """What is hashed before a key of this curve signs."""
    return _HASHES[curve.name]()


def _keys() -> Path:
    return home() / "keys"


def _trusted() -> Path:
    return _keys() / "trusted"


def _private_path(name: str) -> Path:
    return _keys() / f"{_checked(name)}.pem"


def _trusted_path(name: str) -> Path:
    return _trusted() / f"{_checked(name)}.pub"


def _find(word: str, place: Callable[[str], Path], names: list[str]) -> Path:
    """The file `word`, or the key of that name."""
    if Path(word).is_file():
        return Path(word)
    if _NAME.fullmatch(word) and place(word).is_file():
        return place(word)
    raise NotFound(f"no key file and no key named {word!r}", hint=did_you_mean(word, names))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise InvalidInput(f"{path} is too large to be a key")
    return data


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _check_curve(curve: ec.EllipticCurve, where: str) -> None:
    if curve.name not in _HASHES:
        raise InvalidInput(f"{where} is a key of the curve {curve.name}", hint=f"Use {', '.join(_HASHES)}.")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is not a name for a key", hint="Use letters, digits, '_', '-' and '.', at most 64."
        )
    return name
