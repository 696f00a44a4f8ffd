"""What pages keep between requests: answers about versions that never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from adapthub.hub.server.pages.composing import Composer
from adapthub.hub.server.pages.differences import Differences
from adapthub.hub.store import Store


@dataclass(frozen=True)
class State:
    """Of one application's pages."""

    composer: Composer
    differences: Differences

    @classmethod
    def over(cls, store: Store) -> State:
        """Nothing known yet."""
        return cls(Composer(store), Differences(store))


def _state(request: Request) -> State:
    state: State = request.app.state.pages
    return state


TheState = Annotated[State, Depends(_state)]
