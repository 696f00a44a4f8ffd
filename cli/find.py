"""What a word on the command line stands for: an adapter's folder or its name in the hub. Loads no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapthub.adapters.errors import AdapterNotFound, InvalidSettings
from adapthub.cli.data import find_base

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.registry import Registry


_HOW_IT_LOOKS = "Name the folder with adapter_config.json and adapter_model.safetensors."


def find_adapter(word: str, hub: Registry) -> Artifact:
    """The adapter in the folder `word`, or the one of that name in `hub`, verified."""
    path = Path(word)
    if path.is_dir() or path.is_file() or word.startswith(("/", "./", "../", "~")):
        return read_adapter(path)
    return hub.pull(word)


def read_adapter(folder: Path) -> Artifact:
    """The adapter in `folder`, verified. Raises AdapterNotFound for a file, and for a folder that is a base model."""
    from adapthub.adapters.artifact import Artifact

    if folder.is_file():
        raise AdapterNotFound(f"{folder} is a file, and an adapter is a folder", hint=_HOW_IT_LOOKS)
    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists():
        raise AdapterNotFound(f"{folder} holds a base model, not an adapter", hint=_HOW_IT_LOOKS)
    return Artifact.read(folder)


def chosen_base(base: str | None, artifact: Artifact) -> str:
    """`base` if the user named one, else the one that `artifact` was trained on; fetched if it is a sample."""
    if base is None and artifact.base_ref is None:
        raise InvalidSettings(
            f"{artifact.path} does not say which base model it is for", hint="Name it with --base."
        )
    return find_base(base or artifact.base_ref or "")


def chosen_quantization(quantize: str | None, artifact: Artifact) -> str | None:
    """`quantize` if the user said so ("none" is None), else as `artifact` was trained."""
    if quantize is not None:
        return None if quantize == "none" else quantize
    return artifact.manifest.quantization if artifact.manifest is not None else None
