"""The header of an answer that says which version of an adapter it is by; an answer by the base alone has none.

Does not resolve names (catalog does).
"""

from __future__ import annotations

from typing import TypeVar

from fastapi import Response

from adapthub.runtime.server.catalog import Target

HEADER = "x-adapter-version"
Answer = TypeVar("Answer", bound=Response)


def versioned(response: Answer, target: Target) -> Answer:
    """`response`, which says by what it is."""
    if target.label:
        response.headers[HEADER] = target.label
    return response
