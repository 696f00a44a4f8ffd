"""An adapter as a folder in PEFT's layout: read it, verify it, write it whole.

    adapter_config.json         PEFT's configuration
    adapter_model.safetensors   PEFT's tensors
    adapthub.json               our manifest; absent in a plain PEFT folder
    README.md                   the card, and other documents that admission allows
    model.sig                   a signature over all of these (hub/signing), beside the adapter and no part of it

An adapter's identity is its digest: the sha256 over the sorted lines "<sha256>  <name>\\n" of its files; so
`sha256sum * | LC_ALL=C sort | sha256sum` gives it too, without model.sig. Every read admits the folder and verifies all
digests before anything is believed; tensors come from the very bytes that were verified.

Does not attach adapters to a base, does not check that they fit one, and does not know hubs or names.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters import admission
from adapthub.adapters.configuration_policy import read_config
from adapthub.adapters.errors import AdapterNotFound, AdmissionError, IntegrityError, MissingDependency
from adapthub.adapters.files import new_directory, sha256_bytes
from adapthub.adapters.safetensors_header import Span, check_safetensors
from adapthub.adapters.tasks import Task, task_of

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

    from adapthub.adapters.fingerprint import Fingerprint
    from adapthub.adapters.manifest import Manifest

_METHODS = {"LORA": "lora", "IA3": "ia3", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}


@dataclass(frozen=True)
class FileRecord:
    """One file of an adapter: lower-case hex sha256, and size in bytes."""

    sha256: str
    size: int


def digest_of(files: Mapping[str, str]) -> str:
    """The digest of an adapter whose files have these sha256, by name: "sha256:<hex>"."""
    lines = sorted(f"{sha256}  {name}\n" for name, sha256 in files.items())
    return f"sha256:{sha256_bytes(''.join(lines).encode())}"


@dataclass(frozen=True)
class Artifact:
    """One adapter folder that was admitted and verified. Equal where folder and digest are equal.

    `manifest` is None for a plain PEFT folder; what only a manifest says is then None. `signature` is the bytes
    of model.sig, which nobody has verified yet; None where there is none.
    """

    path: Path
    digest: str
    files: Mapping[str, FileRecord] = field(compare=False, repr=False)
    config: Mapping[str, Any] = field(compare=False, repr=False)
    manifest: Manifest | None = field(compare=False, repr=False)
    signature: bytes | None = field(compare=False, repr=False)
    _spans: tuple[Span, ...] = field(compare=False, repr=False)
    _unused_weights: list[bytearray] = field(compare=False, repr=False)

    @classmethod
    def read(cls, path: Path | str, *, expected_digest: str | None = None) -> Artifact:
        """Read each file once, admit it and verify its digest.

        The weights' bytes stay in memory until `tensors` takes them or the artifact is dropped. Raises
        AdapterNotFound (no such folder), AdmissionError (outside the policy), UnsupportedAdapter (a PEFT
        type that is not known here), IntegrityError (a digest that differs), StorageError (the disk).
        """
        folder = Path(path)
        if not folder.is_dir():
            raise AdapterNotFound(f"no adapter folder at {folder}")
        kept: dict[str, bytearray] = {}
        files: dict[str, FileRecord] = {}
        for name in admission.list_files(folder):
            data = admission.read_file(folder, name)
            files[name] = FileRecord(sha256_bytes(data), len(data))
            if name in admission.MAX_BYTES:
                kept[name] = data
        digest = digest_of({name: record.sha256 for name, record in files.items()})
        if expected_digest is not None and digest != expected_digest:
            raise IntegrityError(f"{folder} has the digest {digest}, expected was {expected_digest}")
        config = read_config(bytes(kept[admission.CONFIG]), str(folder / admission.CONFIG))
        manifest = None
        if admission.MANIFEST in kept:
            manifest = _read_manifest(bytes(kept[admission.MANIFEST]), str(folder / admission.MANIFEST))
            _check_files(folder, files, manifest.files)
        spans = check_safetensors(kept[admission.WEIGHTS], str(folder / admission.WEIGHTS))
        signature = admission.read_signature(folder)
        return cls(folder, digest, files, config, manifest, signature, spans, [kept[admission.WEIGHTS]])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by PEFT's key, on the CPU, in the file's dtypes and shapes, owned by the caller.

        The first call takes the bytes that `read` verified; a later one reads the file again and raises
        IntegrityError where it is no longer the same.
        """
        from adapthub.adapters.tensor_views import tensor_views

        try:
            data = self._unused_weights.pop()
        except IndexError:
            data = admission.read_file(self.path, admission.WEIGHTS)
            if sha256_bytes(data) != self.files[admission.WEIGHTS].sha256:
                raise IntegrityError(
                    f"{self.path / admission.WEIGHTS} changed since it was verified"
                ) from None
        return tensor_views(data, self._spans)

    @property
    def sha256s(self) -> dict[str, str]:
        """The sha256 of every file by name: what the digest is of."""
        return {name: record.sha256 for name, record in self.files.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by PEFT's key, from the header that was verified; reads nothing."""
        return {span.name: span.shape for span in self._spans}

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


def write_artifact(
    target: Path | str,
    *,
    manifest: Manifest,
    card: str,
    peft_model: PeftModel | None = None,
    config: PeftConfig | Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    extra: Mapping[str, bytes] | None = None,
    replace: bool = False,
) -> Artifact:
    """Write an adapter folder whole or not at all, and return it as read back and admitted.

    Give `peft_model` (its active adapter is written) or `config` and `tensors` by PEFT's keys. The
    configuration's base becomes the manifest's. `extra` maps file names to bytes. The manifest's `files`
    are filled in here. A PEFT model's base embeddings are never copied into the adapter: the base is never
    modified; new tokens belong in modules_to_save or trainable_token_indices.
    Raises Conflict (target exists, without `replace`), StorageError (disk), and what Artifact.read raises.
    """
    from safetensors.torch import save

    if (peft_model is None) == (config is None) or (config is None) != (tensors is None):
        raise TypeError("write_artifact takes either peft_model, or config and tensors")
    if peft_model is not None:
        config, tensors = _state_of(peft_model)
    assert config is not None
    assert tensors is not None
    contents = {
        admission.CONFIG: _config_json(config, manifest),
        admission.WEIGHTS: save(_independent(tensors), metadata={"format": "pt"}),
        admission.CARD: card.encode(),
    }
    for name, data in (extra or {}).items():
        admission.check_name(name)
        if name in contents or name == admission.MANIFEST:
            raise AdmissionError(f"{name!r} is written by AdaptHub and may not be an extra file")
        contents[name] = data
    digests = {name: sha256_bytes(data) for name, data in contents.items()}
    contents[admission.MANIFEST] = manifest.model_copy(update={"files": digests}).to_json()
    target = Path(target)
    with new_directory(target, replace=replace) as aside:
        for name, data in contents.items():
            (aside / name).write_bytes(data)
        artifact = Artifact.read(aside)
    return dataclasses.replace(artifact, path=target)


def _state_of(peft_model: PeftModel) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    from peft import get_peft_model_state_dict

    name = peft_model.active_adapter
    state = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
    return peft_model.peft_config[name], state


def _independent(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous CPU copies: the format refuses tensors that share memory."""
    import torch

    return {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _config_json(config: PeftConfig | Mapping[str, Any], manifest: Manifest) -> bytes:
    """As PEFT writes it, but the same bytes in every process: PEFT's sets are written sorted."""
    fields = dict(config) if isinstance(config, Mapping) else config.to_dict()
    fields |= {
        "base_model_name_or_path": manifest.base.id,
        "revision": manifest.base.revision,
        "inference_mode": True,
    }
    return (json.dumps(fields, indent=2, sort_keys=True, default=sorted, allow_nan=False) + "\n").encode()


def _read_manifest(data: bytes, where: str) -> Manifest:
    try:
        from adapthub.adapters.manifest import Manifest
    except ImportError as error:
        raise MissingDependency(
            f"{where} cannot be read without {error.name}", hint=f"Install it: pip install {error.name}."
        ) from error
    return Manifest.from_json(data, where)


def _check_files(folder: Path, files: Mapping[str, FileRecord], recorded: Mapping[str, str]) -> None:
    """Compare the folder with the manifest's list, which covers every file but the manifest."""
    present = files.keys() - {admission.MANIFEST}
    if missing := sorted(recorded.keys() - present):
        raise IntegrityError(f"{folder} lacks {', '.join(map(repr, missing))}, which its manifest lists")
    if left := sorted(present - recorded.keys()):
        raise IntegrityError(
            f"{folder} has {', '.join(map(repr, left))}, which its manifest does not list",
            hint="Remove it, or write the adapter anew.",
        )
    for name in sorted(present):
        if files[name].sha256 != recorded[name]:
            raise IntegrityError(
                f"{folder / name} differs from its digest in the manifest",
                hint="Restore the file or pull the adapter again.",
            )
