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
from adapthub.adapters.description import Description, FileRecord, describe, digest_of
from adapthub.adapters.errors import AdapterNotFound, AdmissionError, IntegrityError
from adapthub.adapters.files import new_directory, sha256_bytes
from adapthub.adapters.safetensors_header import check_safetensors

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

    from adapthub.adapters.manifest import Manifest


@dataclass(frozen=True)
class Artifact(Description):
    """One adapter folder that was admitted and verified. Equal where folder and digest are equal.

    `signature` is the bytes of model.sig, which nobody has verified yet; None where there is none.
    """

    path: Path
    signature: bytes | None = field(compare=False, repr=False)
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
        weights = kept.pop(admission.WEIGHTS)
        contents = {name: bytes(data) for name, data in kept.items()}
        described = describe(files, contents, (), str(folder))
        spans = check_safetensors(weights, str(folder / admission.WEIGHTS))
        signature = admission.read_signature(folder)
        return cls(digest, files, described.config, described.manifest, spans, folder, signature, [weights])

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
        return tensor_views(data, self.spans)

    def placed(self, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """One of its `tensors` where a base on `device` computes with it, in `dtype`."""
        return tensor.to(device=device, dtype=dtype)


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
