"""`adapt compare`: which of two adapters is better on labelled data. `recipes.compare` measures and tells."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.data import data_option, find_split
from adapthub.cli.options import base_option, complete_names, device_option, hub_option, quantize_option
from adapthub.cli.output import announce, json_option, show_json, show_table
from adapthub.cli.set_option import set_option, settings

if TYPE_CHECKING:
    from adapthub.recipes.paired import Difference


@click.command()
@click.argument("first", shell_complete=complete_names)
@click.argument("second", shell_complete=complete_names)
@data_option
@click.option("--task", metavar="FILE", help="The file of a recipe of your own, where one trained it.")
@click.option("--split", default="test", show_default=True, help="Which split of a folder or sample.")
@base_option("of each, the one it was trained on")
@quantize_option("as each was trained")
@device_option
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--text-column", help="Where the text is.")
@click.option("--label-column", help="Where the label is; in CoNLL files a number, -1 is the last.")
@click.option("--encoding", help="Of the data file; default utf-8.")
@set_option("Any other way to read the data; see adapt recipes.")
@hub_option
@json_option
def compare(
    first: str,
    second: str,
    *,
    data: str,
    task: str | None,
    split: str,
    base: str | None,
    quantize: str | None,
    batch_size: int,
    more: tuple[str, ...],
    hub: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Tell which of two adapters is better on labelled data.

    Or that the data cannot tell. FIRST and SECOND are names or folders, and measured as served; both were trained by one
    recipe, for the same labels. Differences are SECOND's value less FIRST's, with a paired bootstrap 95 % interval: both
    are measured on the same resamples of rows. The two-sided p-value is the larger one of the bootstrap's and a
    randomisation test's. A difference is clear where the interval leaves 0 out and p is below 0.05.

    \b
    Example:
      $ adapt compare acme/ner@v1 acme/ner-more --data test.conll
      $ adapt compare acme/ner runs/ner/adapter --data test.conll --json
    """
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import chosen_base, find_adapter
    from adapthub.cli.quiet import quiet_libraries

    quiet_libraries()
    options = {name: value for name, value in given.items() if value is not None}
    options |= settings(more, of="compare")
    file = find_split(data, split)
    registry = open_chosen(hub)
    before, after = find_adapter(first, registry), find_adapter(second, registry)
    for artifact in (before, after):
        chosen_base(base, artifact)  # fetched now, if it is a sample

    from adapthub.recipes import compare as compare_adapters

    found = compare_adapters(
        before, after, file, base=base, quantize=quantize, batch_size=batch_size, task=task, **options
    )
    sentence = found.sentence(first, second)
    for note in found.notes:
        announce(note)
    if as_json:
        show_json(
            {
                "first": {"adapter": first, "digest": found.first},
                "second": {"adapter": second, "digest": found.second},
                "data": found.source,
                "rows": found.rows,
                "better": {found.first: first, found.second: second}.get(found.better or ""),
                "sentence": sentence,
                "metrics": {name: asdict(one) for name, one in found.metrics.items()},
            }
        )
        return
    click.echo(f"{found.source}: {found.rows} rows")
    rows = [_row(name, one) for name, one in found.metrics.items()]
    show_table(rows, ("metric", "first", "second", "difference", "95 %", "p", "clear", "n"))
    click.echo(sentence)


def _row(name: str, one: Difference) -> dict[str, Any]:
    return {
        "metric": name,
        "first": f"{one.first:.4f}",
        "second": f"{one.second:.4f}",
        "difference": f"{one.difference:+.4f}",
        "95 %": f"[{one.low:+.4f}, {one.high:+.4f}]",
        "p": f"{one.p:.3g}",
        "clear": one.clear,
        "n": one.n,
    }
