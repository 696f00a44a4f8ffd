"""`adapt lineage`: what an adapter was made from and what came of it, as two trees. The hub knows; this lays out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from adapthub.cli.options import complete_names, hub_option
from adapthub.cli.output import json_option, show_json
from adapthub.cli.text import one_line

if TYPE_CHECKING:
    from adapthub.hub.registry import Ancestor, Lineage


@click.command()
@click.argument("ref", shell_complete=complete_names)
@hub_option
@json_option
def lineage(ref: str, hub: str | None, as_json: bool) -> None:
    """Show what the adapter REF was made from, and what came of it.

    A version that the hub does not have is there with a question mark, as its child names it.

    \b
    Example:
      $ adapt lineage acme/ner
      $ adapt lineage acme/ner@v1 --json
    """
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.hub.documents import lineage_record

    found = open_chosen(hub).lineage(ref)
    if as_json:
        show_json(lineage_record(found))
        return
    for line in _lines(found):
        click.echo(line)


def _lines(found: Lineage) -> Iterator[str]:
    yield _called(found.versions[found.root])
    parents = {digest: one.parents for digest, one in found.versions.items()}
    if parents[found.root] or found.unpinned:
        yield "made from"
        yield from _tree(found.root, parents, found.versions)
        yield from (f"   ? {one_line(text)} (names no digest)" for text in found.unpinned)
    if found.descendants:
        children: dict[str, list[str]] = {}
        for digest, one in found.descendants.items():
            for parent in one.parents:
                children.setdefault(parent, []).append(digest)
        yield "what came of it"
        yield from _tree(found.root, children, found.descendants)
    if not (parents[found.root] or found.unpinned or found.descendants):
        yield "It names no parents, and no version here was made from it."
    if found.cut:
        yield "There is more than is shown."


def _tree(root: str, below: Mapping[str, Sequence[str]], versions: Mapping[str, Ancestor]) -> Iterator[str]:
    """What is below `root`, indented; a version that is there twice has its own below it once."""
    waiting = [(digest, 1) for digest in reversed(below.get(root, ()))]
    shown: set[str] = set()
    while waiting:
        digest, depth = waiting.pop()
        if digest not in versions:
            continue
        again = digest in shown and bool(below.get(digest))
        yield "   " * depth + _called(versions[digest]) + (" (see above)" if again else "")
        if digest not in shown:
            shown.add(digest)
            waiting += [(one, depth + 1) for one in reversed(below.get(digest, ()))]


def _called(one: Ancestor) -> str:
    number = "?" if one.number is None else f"v{one.number}"
    return f"{one_line(one.name)}@{number}  {one.digest[:19]}"
