"""Which paths a commit may have, and which names a branch or a tag may have. Does not know what is at a path."""

from __future__ import annotations

import re
import unicodedata

from adapthub.adapters.admission import IGNORED
from adapthub.adapters.errors import AdmissionError, InvalidReference
from adapthub.hub.reference import reads_as_version_or_commit

_LONGEST = 512
_DEEPEST = 16
_PICKLES = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".npy",
    ".npz",
    ".h5",
    ".keras",
    ".msgpack",
)
_CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".jar")
_GIT = frozenset({".git", ".gitmodules"})
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,99}")


def check_path(path: str) -> str:
    """`path`, if a commit may have a file there. Raises AdmissionError saying why not."""
    reason = _wrong(path)
    if reason is not None:
        raise AdmissionError(f"the path {path[:120]!r} {reason}", hint="Rename the file, or leave it out.")
    name = path.rpartition("/")[2].lower()
    if name.endswith((*_PICKLES, *_CODE)):
        what = "code" if name.endswith(_CODE) else "a pickle or a format that may hold one"
        raise AdmissionError(
            f"{path!r} may not be in a hub of adapters: it is {what}", hint="Weights are safetensors here."
        )
    return path


def _wrong(path: str) -> str | None:
    parts = path.split("/")
    if not path or len(path) > _LONGEST or len(parts) > _DEEPEST:
        return f"is empty, longer than {_LONGEST} characters or deeper than {_DEEPEST} folders"
    if "\\" in path or any(
        unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for char in path
    ):
        return "has a character that no path may have"
    for part in parts:
        if part in ("", ".", ".."):
            return "leaves its folder, or has an empty part"
        if part.casefold() in _GIT or (part.startswith(".") and part not in IGNORED):
            return f"has the hidden part {part!r}"
        if (
            part.startswith(("-", "~", " "))
            or part.endswith((" ", "."))
            or ":" in part
            or _DEVICES.fullmatch(part)
        ):
            return f"has the part {part!r}, which is no file's name on every system"
    return None


def check_ref(name: str, kind: str) -> str:
    """`name`, if a branch or a tag (the `kind`) may have it. Raises InvalidReference saying why not."""
    if (
        not _REF.fullmatch(name)
        or any(mark in name for mark in ("..", "//", "/."))
        or name.endswith(("/", ".", ".lock"))
    ):
        raise InvalidReference(
            f"{kind} {name[:120]!r} is not a valid name", hint="Use letters, digits and . _ - / between them."
        )
    if reads_as_version_or_commit(name) or name == "latest" or name.startswith("refs/"):
        raise InvalidReference(
            f"{kind} {name!r} would read as a version or a commit",
            hint="Choose another name, such as release-1.",
        )
    return name
