"""The files that pages are made of: style, script, icon. Read once, kept by browsers until they change.

They hold nothing of the hub's, so that anybody may have them. No repository is called `-`, which their addresses begin with.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Response

from adapthub.adapters.errors import EntryNotFound
from adapthub.web.page_files import media_type, read_files

router = APIRouter(include_in_schema=False)

_FILES = read_files(files(__package__) / "static")
VERSION = hashlib.sha256(b"".join(_FILES[name] for name in sorted(_FILES))).hexdigest()[:12]
"""Part of their addresses: another version has other ones."""


@router.api_route("/-/{version}/{name}", methods=["GET", "HEAD"])
async def static(version: str, name: str) -> Response:
    """One file."""
    if version != VERSION or name not in _FILES:
        raise EntryNotFound(f"the pages have no file {name[:100]}")
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "public, max-age=31536000, immutable",
    }
    return Response(_FILES[name], media_type=media_type(name), headers=headers)
