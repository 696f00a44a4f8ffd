"""What an adapter's small files and the header of its weights say: enough to list, check and describe it.

An `Artifact` is a description whose bytes are in a local folder; a hub describes what it stores from the same few bytes.
Does not read files, and does not check that the weights' data has its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapthub.adapters.admission import CONFIG, MANIFEST
from adapthub.adapters.configuration_policy import read_config
from adapthub.adapters.errors import IntegrityError, MissingDependency
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.safetensors_header import Span
from adapthub.adapters.tasks import Task, task_of

if TYPE_CHECKING:
    from adapthub.adapters.fingerprint import Fingerprint
    from adapthub.adapters.manifest import Manifest

_METHODS = {"LORA": "lora", "IA3": "ia3", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}


@dataclass(frozen=True)
class FileRecord:
    """One file of an adapter: lower-case hex sha256, and size in bytes."""

    sha256: str
    size: int


def sums_of(files: Mapping[str, str]) -> str:
    """The lines "<sha256>  <name>", sorted, of files with these sha256 by name: what `sha256sum -c` reads."""
    return "".join(sorted(f"{sha256}  {name}\n" for name, sha256 in files.items()))


def digest_of(files: Mapping[str, str]) -> str:
    """The digest of an adapter whose files have these sha256, by name: "sha256:<hex>"."""
    return f"sha256:{sha256_bytes(sums_of(files).encode())}"


@dataclass(frozen=True)
class Description:
    """An adapter's configuration, manifest and tensors, by digest. Equal where digests are equal.

    `manifest` is None for a plain PEFT folder; what only a manifest says is then None. `spans` are the tensors of the
    weights, from their header.
    """

    digest: str
    files: Mapping[str, FileRecord] = field(compare=False, repr=False)
    config: Mapping[str, Any] = field(compare=False, repr=False)
    manifest: Manifest | None = field(compare=False, repr=False)
    spans: tuple[Span, ...] = field(compare=False, repr=False)

    @property
    def sha256s(self) -> dict[str, str]:
        """The sha256 of every file by name: what the digest is of."""
        return {name: record.sha256 for name, record in self.files.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by PEFT's key, from the header that was verified."""
        return {span.name: span.shape for span in self.spans}

    @property
    def method(self) -> str:
        """ "lora" (rsLoRA and DoRA too), "ia3", "prefix" or "prompt", from the configuration's peft_type."""
        return _METHODS[self.config["peft_type"]]

    @property
    def task(self) -> Task | None:
        """The manifest's task, else what the configuration's task_type says, else None."""
        return self.manifest.task if self.manifest is not None else task_of(self.config.get("task_type"))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The head's labels in the order of its outputs, where the manifest has them."""
        return self.manifest.labels if self.manifest is not None else None

    @property
    def base_ref(self) -> str | None:
        """The base that the adapter says it belongs to."""
        return (
            self.manifest.base.id if self.manifest is not None else self.config.get("base_model_name_or_path")
        )

    @property
    def base_fingerprint(self) -> Fingerprint | None:
        """The fingerprint of the base it was trained on, where the manifest has it."""
        return self.manifest.base.fingerprint if self.manifest is not None else None

    @property
    def rank(self) -> int | None:
        """LoRA's rank `r`; single modules may differ by rank_pattern. None for other methods."""
        return self.config.get("r")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())


def describe(
    files: Mapping[str, FileRecord], contents: Mapping[str, bytes], spans: tuple[Span, ...], where: str
) -> Description:
    """The description of the adapter whose files are `files`; `contents` has the bytes of its configuration and, if it has
    one, of its manifest.

    Raises AdmissionError or UnsupportedAdapter, naming the field and the file in `where`, for what the policy refuses, and
    IntegrityError for a manifest that lists other files.
    """
    config = read_config(contents[CONFIG], f"{where}/{CONFIG}")
    manifest = None
    if MANIFEST in contents:
        manifest = _read_manifest(contents[MANIFEST], f"{where}/{MANIFEST}")
        _check_files(where, files, manifest.files)
    digest = digest_of({name: record.sha256 for name, record in files.items()})
    return Description(digest, files, config, manifest, spans)


def _read_manifest(data: bytes, where: str) -> Manifest:
    try:
        from adapthub.adapters.manifest import Manifest
    except ImportError as error:
        raise MissingDependency(
            f"{where} cannot be read without {error.name}", hint=f"Install it: pip install {error.name}."
        ) from error
    return Manifest.from_json(data, where)


def _check_files(where: str, files: Mapping[str, FileRecord], recorded: Mapping[str, str]) -> None:
    """Compare the files with the manifest's list, which covers every file but the manifest."""
    present = files.keys() - {MANIFEST}
    if missing := sorted(recorded.keys() - present):
        raise IntegrityError(f"{where} lacks {', '.join(map(repr, missing))}, which its manifest lists")
    if left := sorted(present - recorded.keys()):
        raise IntegrityError(
            f"{where} has {', '.join(map(repr, left))}, which its manifest does not list",
            hint="Remove it, or write the adapter anew.",
        )
    for name in sorted(present):
        if files[name].sha256 != recorded[name]:
            raise IntegrityError(
                f"{where}/{name} differs from its digest in the manifest",
                hint="Restore the file or pull the adapter again.",
            )
