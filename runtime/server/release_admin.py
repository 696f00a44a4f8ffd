"""Releases as an administrator starts, watches and ends them.

What a release is and when it breaks its rule is in `releases`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from adapthub.adapters.errors import Conflict, InvalidInput
from adapthub.hub.reference import Reference, check_alias, parse_name
from adapthub.runtime.server.dependencies import TheAdmin, TheServing
from adapthub.runtime.server.errors import ERRORS
from adapthub.runtime.server.releases import Release, Rule
from adapthub.runtime.server.serving import Serving

router = APIRouter(prefix="/admin/releases", tags=["releases"], responses=ERRORS)
_SHARES = {"canary": 0.1, "shadow": 1.0}


class NewRelease(BaseModel):
    """`candidate`: a reference to a version of the adapter `name`, which takes part in requests for `name@alias`.
    `weight`: the share of them, by default a tenth for a canary and all for a shadow."""

    model_config = ConfigDict(extra="forbid")

    name: str
    candidate: str
    alias: str = "prod"
    kind: Literal["canary", "shadow"] = "canary"
    weight: float | None = Field(default=None, ge=0, le=1)
    rule: Rule = Rule()


class NewWeight(BaseModel):
    """Another share."""

    model_config = ConfigDict(extra="forbid")

    weight: float = Field(ge=0, le=1)


@router.post("", status_code=201)
async def start(body: NewRelease, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Load the candidate, and let it answer from now on."""
    catalog = serving.catalog
    name = parse_name(body.name).full_name
    alias = check_alias(body.alias)
    reference = Reference.parse(body.candidate)
    if reference.full_name != name:
        raise InvalidInput(
            f"the candidate {body.candidate} is no version of {name}", hint=f"Name one, such as {name}@v2."
        )
    candidate = await catalog.resolve(reference, fresh=True)
    current = await catalog.resolve(Reference.parse(f"{name}@{alias}"), fresh=True)
    if current.digest == candidate.digest:
        raise Conflict(f"{name}@{alias} means v{candidate.number} already", hint="Name another version.")
    target = await catalog.load(f"{name}@v{candidate.number}")
    if body.kind == "shadow":
        task = (await asyncio.to_thread(serving.runtime.task, target.adapter))[0]
        if task not in (None, "text-generation"):
            raise InvalidInput(
                f"{target.label} is for {task}, and a shadow compares generated texts",
                hint="Start a canary.",
            )
    weight = _SHARES[body.kind] if body.weight is None else body.weight
    return await _saved(serving, catalog.releases.start(candidate, alias, body.kind, weight, body.rule))


@router.get("")
async def releases(serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """All that run, and the last that ended, the newest first."""
    kept = serving.catalog.releases
    return {"releases": [kept.describe(release) for release in kept]}


@router.get("/{id}")
async def release(id: str, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """One, with what it came to since the server started."""
    kept = serving.catalog.releases
    return kept.describe(kept.get(id))


@router.patch("/{id}")
async def reweigh(id: str, body: NewWeight, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Give it another share. Who was on the candidate stays there when it grows."""
    return await _saved(serving, serving.catalog.releases.reweigh(id, body.weight))


@router.post("/{id}/finish")
async def finish(id: str, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Move the alias to the candidate, and end the release."""
    kept = serving.catalog.releases
    running = kept.get(id)
    ended = kept.end(
        id, "finished", f"{running.alias} moved to v{running.number}"
    )  # first: nothing else ends it now
    try:
        await asyncio.to_thread(serving.hub.promote, running.label, running.alias)
    except Exception:
        await _saved(serving, kept.resume(running))
        raise
    serving.catalog.forget_resolved()
    return await _saved(serving, ended)


@router.delete("/{id}")
async def stop(id: str, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Ask the candidate no more; the alias stays where it is."""
    return await _saved(serving, serving.catalog.releases.end(id, "stopped", "an administrator ended it"))


async def _saved(serving: Serving, release: Release) -> dict[str, Any]:
    await asyncio.to_thread(serving.catalog.releases.save)
    return serving.catalog.releases.describe(release)
