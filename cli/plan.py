"""`adapt plan`, and `adapt train --dry-run`: what a run would be. `recipes.plan` finds out; here it is shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import json_option, show_json, show_record, show_table
from adapthub.cli.quiet import quiet_libraries
from adapthub.cli.text import one_line, size
from adapthub.cli.training_options import plan_arguments, run_arguments, training_options

if TYPE_CHECKING:
    from adapthub.recipes import Plan

_SPLIT_COLUMNS = ("split", "source", "rows", "targets", "supervised", "truncated")


@click.command()
@training_options
@json_option
def plan(*, as_json: bool, **options: Any) -> None:
    """Show what adapt train would do with the same options.

    The resolved run, how much of the model is trained, an estimate of the memory, why the defaults are what they
    are, the splits, what is worth knowing of the data, and three samples with their labels. Reads the data and
    the base's configuration; trains and writes nothing.

    \b
    Example:
      $ adapt plan --task ner --data train.conll --base package:minilm
      $ adapt plan --task sentiment --data reviews.csv --base package:minilm --method prefix --json
    """
    quiet_libraries()
    arguments = plan_arguments(run_arguments(**options))

    from adapthub.recipes import plan as plan_run

    show_plan(plan_run(**arguments), as_json=as_json)


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        show_json(asdict(plan))
        return
    show_record(summary(plan))
    click.echo("\nSettings")
    show_table(
        [
            {"setting": name, "value": value, "why": plan.reasons.get(name, "")}
            for name, value in plan.settings.items()
        ],
        ("setting", "value", "why"),
    )
    click.echo("\nData")
    show_table([asdict(split) for split in plan.splits], _SPLIT_COLUMNS)
    for note in plan.notes:
        click.echo(one_line(note))
    for sample in plan.samples:
        click.echo(f"\n{one_line(sample.source)}: {one_line(sample.text)}")
        show_table([dict(zip(sample.columns, row, strict=True)) for row in sample.rows], sample.columns)


def summary(plan: Plan) -> dict[str, Any]:
    """The run in a few lines, for a person."""
    return {
        **{name: getattr(plan, name) for name in ("task", "method", "base", "quantize", "seed", "labels")},
        "steps": plan.steps,
        "steps_between_evaluations": plan.eval_steps,
        "trained": f"{plan.trainable:,} parameters, {plan.trainable_share:.2%} of the base's",
        "adapter": f"{size(plan.adapter_bytes)}, {plan.adapter_share:.2%} of the base's {size(plan.base_bytes)}",
        "estimated_memory": size(plan.estimated_memory),
    }
