"""All pages, in the order in which addresses are matched: after every API's, for the last ones are any two names.

Opens nothing.
"""

from __future__ import annotations

from fastapi import FastAPI

from adapthub.hub.server.pages import (
    adapter,
    assets,
    auditing,
    browsing,
    comparing,
    diffing,
    files,
    ranking,
    visitors,
)

MODULES = (assets, visitors, comparing, ranking, auditing, diffing, files, adapter, browsing)


def add_pages(app: FastAPI) -> None:
    """Let `app` answer browsers. Call it when every other route is there."""
    for module in MODULES:
        app.include_router(module.router)
