"""`adapt eval`: an adapter's metrics on labelled data. `recipes.evaluate` measures."""

from __future__ import annotations

from typing import Any

import click

from adapthub.cli.data import data_option, find_split
from adapthub.cli.options import base_option, complete_names, device_option, hub_option, quantize_option
from adapthub.cli.output import announce, json_option, show_json
from adapthub.cli.set_option import set_option, settings


@click.command("eval")
@click.argument("ref", shell_complete=complete_names)
@data_option
@click.option("--task", metavar="FILE", help="The file of a recipe of your own, where one trained it.")
@click.option("--split", default="test", show_default=True, help="Which split of a folder or sample.")
@base_option("the one the adapter was trained on")
@quantize_option("as the adapter was trained")
@device_option
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--text-column", help="Where the text is.")
@click.option("--label-column", help="Where the label is; in CoNLL files a number, -1 is the last.")
@click.option("--encoding", help="Of the data file; default utf-8.")
@set_option("Any other way to read the data; see adapt recipes.")
@hub_option
@json_option
def evaluate(
    ref: str,
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
    """Measure the adapter REF on labelled data, as it is served.

    REF is a name or a folder. Every metric comes with the number of examples and a bootstrap 95 % interval.

    \b
    Example:
      $ adapt eval acme/ner --data test.conll
      $ adapt eval runs/ner/adapter --data test.conll --json
    """
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import chosen_base, find_adapter
    from adapthub.cli.quiet import quiet_libraries
    from adapthub.cli.records import estimate_text

    quiet_libraries()
    options = {name: value for name, value in given.items() if value is not None} | settings(
        more, of="evaluate"
    )
    file = find_split(data, split)
    artifact = find_adapter(ref, open_chosen(hub))

    from adapthub.recipes import evaluate as evaluate_adapter

    evaluation = evaluate_adapter(
        artifact,
        file,
        base=chosen_base(base, artifact),
        quantize=quantize,
        batch_size=batch_size,
        task=task,
        **options,
    )
    for note in evaluation.notes:
        announce(note)
    metrics = {name: vars(estimate) for name, estimate in evaluation.metrics.items()}
    if as_json:
        show_json(
            {
                "digest": evaluation.digest,
                "data": evaluation.source,
                "rows": evaluation.rows,
                "truncated": evaluation.truncated,
                "metrics": metrics,
            }
        )
        return
    cut = f", {evaluation.truncated} cut at the adapter's max_length" if evaluation.truncated else ""
    click.echo(f"{evaluation.source}: {evaluation.rows} rows{cut}")
    for name, estimate in evaluation.metrics.items():
        click.echo(f"  {name} {estimate_text(estimate)}")
