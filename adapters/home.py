"""Where AdaptHub keeps its own files: `$ADAPTHUB_HOME`, else the user's data folder.

Inside: `hub/` (the embedded hub), `cache/` (pulled adapters by digest), `samples/` (fetched models and data),
`bases/` (fingerprints of bases whose own folder is read-only). Training runs go to `./runs`, not here.
Does not create anything: whoever writes a folder makes it.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The absolute home folder, read anew on each call. It need not exist yet."""
    chosen = os.environ.get("ADAPTHUB_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("adapthub", appauthor=False)
