"""The page of an adapter, at its main branch or at any revision: what it is, what it came to, where it comes from, how to
use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from adapthub.adapters.description import Description
from adapthub.hub.access import Caller
from adapthub.hub.facts import TRAINING_SPLIT
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Facts, Metric
from adapthub.hub.server.dependencies import Revision, Target, TheServing, origin
from adapthub.hub.server.pages import links
from adapthub.hub.server.pages.certified import certified
from adapthub.hub.server.pages.knowing import read_knowledge
from adapthub.hub.server.pages.markdown import card_html
from adapthub.hub.server.pages.plots import Plot, over_versions
from adapthub.hub.server.pages.reading import (
    Measured,
    Repository,
    read_adapter,
    read_card,
    read_repository,
)
from adapthub.hub.server.pages.releasing import read_release
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.usage import snippets
from adapthub.hub.server.pages.visitors import TheVisitor
from adapthub.hub.server.serving import Serving

router = APIRouter(include_in_schema=False)

MOST_METRICS = 6
"""How many are drawn and listed over versions; a version's own page lists all of its own."""

Number = Annotated[int | None, Query(ge=1, lt=2**31)]
_NOTHING = Facts(None, None, None, None, None, None, ())
_SPLITS = ("test", "validation")


@router.api_route("/{namespace}/{name}/tree/{revision}", methods=["GET", "HEAD"])
def at_revision(
    request: Request,
    target: Target,
    revision: Revision,
    serving: TheServing,
    visitor: TheVisitor,
    before: Number = None,
) -> Response:
    """An adapter at a revision."""
    return _adapter(request, serving, visitor, target, revision, before)


@router.api_route("/{namespace}/{name}/commit/{revision}", methods=["GET", "HEAD"])
def commit(target: Target, revision: Revision) -> Response:
    """Where clients say that a commit is."""
    return RedirectResponse(links.adapter(target.full_name, revision), 307)


@router.api_route("/{namespace}/{name}", methods=["GET", "HEAD"])
def newest(
    request: Request,
    target: Target,
    serving: TheServing,
    visitor: TheVisitor,
    before: Number = None,
) -> Response:
    """An adapter as its main branch is now."""
    return _adapter(request, serving, visitor, target, None, before)


def _adapter(
    request: Request,
    serving: Serving,
    visitor: Caller,
    target: Reference,
    revision: str | None,
    before: int | None,
) -> Response:
    repository = read_repository(serving.store, visitor, target, revision, before)
    facts = _NOTHING if repository.shown is None else repository.shown.facts
    card = read_card(serving.store, repository)
    # Of what is gated, card and facts are shown, as everywhere; files are not read for whoever may not have them.
    adapter = None if repository.refused else read_adapter(serving.store, repository)
    return page(
        request,
        "adapter.html",
        visitor,
        repository=repository,
        asked=revision,
        facts=facts,
        record=_record(adapter),
        card=None if card is None else card_html(card, repository.name, repository.revision),
        snippets=snippets(
            origin(request),
            repository.name,
            repository.revision,
            facts,
            private=repository.private or repository.gated,
        ),
        measured=_measured(repository.versions),
        certified=certified(None if adapter is None else adapter.manifest),
        older=_older(repository),
        knowledge=read_knowledge(serving.store, visitor, repository.version_key),
        release=read_release(serving.store, visitor, repository.version_key),
    )


@dataclass(frozen=True)
class OverVersions:
    """Metrics by version: `names` are (split, name), those of test splits first; a plot each; a row a version, newest first,
    with None where it was not measured."""

    names: Sequence[tuple[str, str]]
    plots: Sequence[Plot]
    rows: Sequence[tuple[int, Sequence[Metric | None]]]
    more: int


def _measured(versions: Sequence[Measured]) -> OverVersions:
    found = [
        (one.version.number, {(metric.split, metric.name): metric for metric in one.facts.metrics})
        for one in versions
    ]
    every = {key for _, metrics in found for key in metrics if key[0] != TRAINING_SPLIT}
    names = sorted(every, key=lambda key: (key[0] not in _SPLITS, key[0] != "test", key))
    shown = names[:MOST_METRICS]
    plots = [
        over_versions(
            f"{name} on {split}",
            [
                (number, metrics[split, name])
                for number, metrics in reversed(found)
                if (split, name) in metrics
            ],
        )
        for split, name in shown
    ]
    rows = [(number, [metrics.get(key) for key in shown]) for number, metrics in found]
    return OverVersions(shown, plots, rows, len(names) - len(shown))


def _record(adapter: Description | None) -> dict[str, Any]:
    """How the adapter was made, by what its configuration and manifest say; what they do not is left out."""
    if adapter is None:
        return {}
    config, manifest = adapter.config, adapter.manifest
    targets = config.get("target_modules")
    found: dict[str, Any] = {
        "Targets": targets if isinstance(targets, str) else ", ".join(sorted(targets or ())),
        "Alpha": config.get("lora_alpha"),
        "Tensors": len(adapter.spans),
        "Parameters": f"{sum(math.prod(span.shape) for span in adapter.spans):,}",
    }
    if manifest is not None:
        found |= {
            "Base revision": manifest.base.revision,
            "Trained over": manifest.quantization,
            "Recipe": manifest.recipe,
            "Seed": manifest.seed,
            "Data": "; ".join(
                f"{split}: {record.rows:,} rows{record.in_groups}"
                + (f" of {record.source}" if record.source else "")
                for split, record in manifest.data.items()
            ),
            "Libraries": ", ".join(f"{name} {version}" for name, version in manifest.libraries.items()),
        }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _older(repository: Repository) -> int | None:
    """The number that the next page of versions begins below."""
    last = repository.versions[-1].version.number if repository.versions else 1
    return last if last > 1 else None
