"""What the hub knows of the version that a page shows, beyond what it says of itself: its fit, lineage, companions, places.

All was kept at its publish; what was not is left out. Reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from adapthub.adapters.errors import NotFound
from adapthub.hub import family, leaderboard
from adapthub.hub.access import Caller
from adapthub.hub.composing import Companion, companions
from adapthub.hub.knowledge import known_of
from adapthub.hub.leaderboard import Place
from adapthub.hub.registry import Fit, Lineage
from adapthub.hub.server.pages.lineage_graph import MOST, Graph, draw
from adapthub.hub.storage.tables import VersionRow
from adapthub.hub.store import Store

_MOST_COMPANIONS = 12
_MOST_PLACES = 12


@dataclass(frozen=True)
class Knowledge:
    """Of one version. `fit` is None where it was published before that was kept, `graph` where neither a parent nor a child
    is known; `places` are the leaderboards that the adapter is on, with its newest version that was measured there."""

    fit: Fit | None = None
    graph: Graph | None = None
    companions: Sequence[Companion] = ()
    places: Sequence[Place] = ()


def read_knowledge(store: Store, caller: Caller, key: int | None) -> Knowledge:
    """Of the version with that key, as far as `caller` may see."""
    if key is None:
        return Knowledge()
    with store.database.reading() as session:
        version = session.get(VersionRow, key)
        if version is None:  # deleted meanwhile
            return Knowledge()
        known = known_of(session, [key]).get(key)
        return Knowledge(
            fit=None if known is None else known.fit,
            graph=_graph(family.lineage_of(session, caller, version, most=MOST + 1)),
            companions=_companions(session, caller, version),
            places=leaderboard.places(session, caller, version.repo, limit=_MOST_PLACES),
        )


def _graph(lineage: Lineage) -> Graph | None:
    if len(lineage.versions) > 1 or lineage.descendants or lineage.unpinned:
        return draw(lineage)
    return None


def _companions(session: Session, caller: Caller, version: VersionRow) -> Sequence[Companion]:
    try:
        return companions(session, caller, version, limit=_MOST_COMPANIONS, after=None).companions
    except NotFound:  # it was published before what decides this was kept
        return ()
