"""Where a base model's files are: a Hub id, a local folder, or `package:NAME`, to a folder on this disk.

`package:NAME` is a name of the samples catalogue, or an installed Python package that ships a transformers
folder. Downloads what is not here yet. Does not load, hash or convert.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from adapthub.adapters.errors import BaseNotFound, InvalidInput
from adapthub.adapters.samples import SAMPLES, fetch
from adapthub.adapters.suggest import did_you_mean

_PACKAGE = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
# What a transformers folder needs. Pickles are left behind: they are never loaded.
_HUB_FILES = (
    "*.json",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "model.safetensors",
    "model-*-of-*.safetensors",
)


@dataclass(frozen=True)
class Location:
    """A transformers folder on this disk. `revision` is the Hub's commit; `own`: not a package's."""

    path: Path
    revision: str | None
    own: bool


def locate(ref: str, revision: str | None = None) -> Location:
    """The folder behind `ref`.

    Raises BaseNotFound with near names or the reason, and InvalidInput for a revision on something that has
    none.
    """
    if ref.startswith(_PACKAGE):
        _no_revision(ref, revision)
        path, own = _package(ref.removeprefix(_PACKAGE))
        return Location(_checked(path, ref), None, own)
    folder = Path(ref).expanduser()
    if folder.is_dir():
        _no_revision(ref, revision)
        return Location(_checked(folder.absolute(), ref), None, True)
    if ref.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(ref):
        raise BaseNotFound(f"no folder {ref}", hint=_near_folders(folder))
    path = _checked(_from_hub(ref, revision), ref)
    return Location(path, path.name, False)


def _package(name: str) -> tuple[Path, bool]:
    """The folder, and whether it is our own (a sample) rather than the package's."""
    for sample in SAMPLES.values():
        if sample.kind == "model" and sample.name == name:
            return fetch(name), True
    folders = _model_folders(_installed_roots(name))
    if len(folders) == 1:
        return folders[0], False
    if folders:
        listed = ", ".join(str(folder) for folder in folders)
        raise InvalidInput(
            f"the package {name} ships several models: {listed}", hint="Name one of these folders."
        )
    for sample in SAMPLES.values():
        if sample.kind == "model" and _same(sample.packages[0].name, name):
            return fetch(sample.name), True
    models = [ref.removeprefix(_PACKAGE) for ref in _package_models()]
    choice = f"Models that come in a package: {', '.join(models)}."
    if _installed_roots(name):
        raise BaseNotFound(
            f"the installed package {name} ships no config.json with model.safetensors", hint=choice
        )
    installed = [str(found.name) for found in importlib.metadata.distributions()]
    near = did_you_mean(name, [*models, *installed]) or choice
    raise BaseNotFound(f"no installed package and no sample model named {name!r}", hint=near)


def _installed_roots(name: str) -> list[Path]:
    """Folders of the distribution or import package `name`, found without importing it."""
    roots: set[Path] = set()
    try:
        for file in importlib.metadata.files(name) or []:
            if len(file.parts) > 1 and file.name == "config.json":
                roots.add(Path(str(file.locate())).parent)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # no such name, or no name at all
        pass
    module = name.replace("-", "_")
    if module.isidentifier() and (spec := importlib.util.find_spec(module)):
        roots.update(Path(location) for location in spec.submodule_search_locations or [])
    return sorted(roots)


def _model_folders(roots: Iterable[Path]) -> list[Path]:
    configs = {path.parent.resolve() for root in roots for path in root.rglob("config.json")}
    return sorted(folder for folder in configs if any(folder.glob("model*.safetensors")))


def _from_hub(ref: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(ref, revision=revision, allow_patterns=list(_HUB_FILES)))
    except GatedRepoError as error:
        raise BaseNotFound(
            f"{ref} is gated", hint="Ask for access on its page, then log in to the Hub."
        ) from error
    except RepositoryNotFoundError as error:
        raise BaseNotFound(
            f"no folder and no Hub model named {ref}", hint=_near_models(ref) or "Check the name, or log in."
        ) from error
    except RevisionNotFoundError as error:
        raise BaseNotFound(f"{ref} has no revision {revision}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise BaseNotFound(
            f"no folder named {ref}, and the Hub that might have it is out of reach",
            hint=_near_models(ref)
            or f"Name a local folder, or a model that comes in a package: {', '.join(_package_models())}.",
        ) from error


def _package_models() -> list[str]:
    """What the samples' models are called as a base."""
    return [f"{_PACKAGE}{sample.name}" for sample in SAMPLES.values() if sample.kind == "model"]


def _near_models(ref: str) -> str | None:
    """`Did you mean package:minilm?` for `minilm`, `minlm` and `org/all-MiniLM-L6-v2`; a folder's name if that is near."""
    parent, _, name = ref.rpartition("/")
    samples = {model.removeprefix(_PACKAGE): model for model in _package_models()}
    folder = Path(parent or ".")
    folders = (
        {path.name: str(folder / path.name) for path in folder.iterdir() if path.is_dir()}
        if folder.is_dir()
        else {}
    )
    known = samples | folders
    near = [known[found] for found in get_close_matches(name.lower(), known, n=3, cutoff=0.6)]
    near += [model for sample, model in samples.items() if sample in name.lower() and model not in near]
    return f"Did you mean {' or '.join(near)}?" if near else None


def _checked(folder: Path, ref: str) -> Path:
    # transformers would load an adapter that lies in the folder on top of the base, without a word.
    if (folder / "adapter_config.json").is_file():
        raise BaseNotFound(
            f"{ref} holds an adapter, not a base model", hint="Name the base that it was trained on."
        )
    if not (folder / "config.json").is_file():
        raise BaseNotFound(f"{ref} has no config.json", hint="Name a folder that save_pretrained wrote.")
    return folder


def _no_revision(ref: str, revision: str | None) -> None:
    if revision is not None:
        raise InvalidInput(f"{ref} has no revisions, only a Hub id has: {revision!r} was given")


def _near_folders(folder: Path) -> str | None:
    parent = folder.absolute().parent
    if not parent.is_dir():
        return f"There is no {parent} either."
    return did_you_mean(folder.name, [path.name for path in parent.iterdir() if path.is_dir()])


def _same(left: str, right: str) -> bool:
    """Package names are equal up to case, `-`, `_` and `.`."""
    return re.sub(r"[-_.]+", "-", left).lower() == re.sub(r"[-_.]+", "-", right).lower()
