"""All pages, in the order in which addresses are matched: after every API's, for the last ones are any two names.

Opens nothing.
"""

from __future__ import annotations

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
