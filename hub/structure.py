"""Which modules an adapter changes and how: what of it decides what it goes with, besides its base and task.

Most adapters of one base and recipe share it, so a hub keeps it once (storage/knowledge_tables). Read off the configuration
and the header; touches no tensor.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from adapthub.adapters.description import Description
from adapthub.adapters.names import PEFT_PREFIX
from adapthub.hub.composition import Traits, traits_of
from adapthub.hub.headers import Recent

_IA3 = ".ia3_l"
_REMEMBERED_BYTES = 32 * 2**20
_MODULE_BYTES = 256  # about, that one takes: its name, and its place among the ranks


@dataclass(frozen=True)
class Structure:
    """`method`, `dora`, `ranks` and `whole` are those of composition.Traits; `targets` the ends of the names of the modules
    that the adapter goes under, such as q_proj, sorted."""

    method: str
    dora: bool
    ranks: Mapping[str, int]
    whole: tuple[str, ...]
    targets: tuple[str, ...]

    def traits(self, *, base: str | None, task: str | None, labels: tuple[str, ...] | None) -> Traits:
        """As composition takes it, of a version with this base, task and labels."""
        return Traits(self.method, self.dora, base, task, labels, self.ranks, frozenset(self.whole))


def _size(structure: Structure) -> int:
    return _MODULE_BYTES * (1 + len(structure.ranks) + len(structure.whole))


_recent: Recent[Structure] = Recent(_REMEMBERED_BYTES, _size)


def structure_of(adapter: Description) -> Structure:
    """The structure of an adapter that was admitted."""
    traits = traits_of(adapter)
    modules = [*traits.ranks]
    if adapter.method == "ia3":
        names = (key.removeprefix(PEFT_PREFIX) for key in adapter.shapes)
        modules = [name.removesuffix(_IA3) for name in names if name.endswith(_IA3)]
    targets = sorted({module.rpartition(".")[2] for module in modules})
    return Structure(traits.method, traits.dora, traits.ranks, tuple(sorted(traits.whole)), tuple(targets))


def to_json(structure: Structure) -> bytes:
    """Equal structures give equal bytes."""
    return json.dumps(
        {
            "method": structure.method,
            "dora": structure.dora,
            "ranks": structure.ranks,
            "whole": structure.whole,
            "targets": structure.targets,
        },
        sort_keys=True,
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def unpacked(digest: str, document: bytes) -> Structure:
    """The structure in a `to_json`, whose sha256 is `digest`, that zlib compressed."""
    found = _recent.get(digest)
    if found is None:
        fields = json.loads(zlib.decompress(document))
        found = Structure(
            fields["method"],
            fields["dora"],
            fields["ranks"],
            tuple(fields["whole"]),
            tuple(fields["targets"]),
        )
        _recent.put(digest, found)
    return found
