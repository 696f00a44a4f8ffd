"""Where AdaptHub keeps its own files: `$ADAPTHUB_HOME`, else the user's data folder.

Inside: `hub/` (the embedded hub), `cache/` (pulled adapters by digest), `samples/` (fetched models and data),
`prepared/` (training data as it was read and tokenised, 20 GB at most; may be deleted at any time),
`bases/` (fingerprints of bases whose own folder is read-only), `kernels.json` (how products were measured to be cut, by
GPU), `tenants.sqlite` (who uses the server, and what they used).
Training runs go to `./runs`, not here.
Does not create anything but folders that are asked for: whoever writes into one has it made.
"""

from __future__ import annotations

import os
from pathlib import Path

from adapthub.adapters.errors import StorageError


def home() -> Path:
    """The absolute home folder, read anew on each call. It need not exist yet."""
    chosen = os.environ.get("ADAPTHUB_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("adapthub", appauthor=False)


def make_folder(folder: Path) -> None:
    """Make a folder with its parents if it is missing; a home that is new is its owner's alone. Raises OSError."""
    if folder.is_relative_to(home()):
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def unusable(folder: Path, error: OSError) -> StorageError:
    """The error for a folder of ours that cannot be opened: which one, why, and that another can be chosen."""
    obstacle = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    reason = error.strerror or str(error)
    if not obstacle.is_dir():
        reason = f"{obstacle} is a file, not a folder"
    elif not os.access(obstacle, os.W_OK):
        reason = f"{obstacle} cannot be written"
    return StorageError(
        f"cannot open {folder}: {reason}",
        hint="Set ADAPTHUB_HOME to a folder that can be written, or mend this one.",
    )
