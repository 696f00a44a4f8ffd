"""All pages, in the order in which addresses are matched: after every API's, for the last ones are any two names.

Opens nothing.
"""

from __future__ import annotations

from fastapi import FastAPI

from adapthub.hub.server.pages import adapter, assets, browsing, comparing, diffing, files, visitors
from adapthub.hub.server.pages.state import State
from adapthub.hub.server.serving import Serving

MODULES = (assets, visitors, comparing, diffing, files, adapter, browsing)


def add_pages(app: FastAPI) -> None:
    """Let `app` answer browsers. Call it when every other route is there."""
    serving: Serving = app.state.serving
    app.state.pages = State.over(serving.store)
    for module in MODULES:
        app.include_router(module.router)
