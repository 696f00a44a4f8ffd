"""`adapt plan`, and `adapt train --dry-run`: what a run would be, or with --serve what serving a base would take.

`recipes.plan` and `runtime.capacity` find out; here it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adapthub.adapters.errors import InvalidSettings
from adapthub.cli.data import find_base
from adapthub.cli.inspect import inspect_option, show_samples
from adapthub.cli.options import base_option, quantize_option, room_options
from adapthub.cli.output import announce, json_option, show_json, show_record, show_table
from adapthub.cli.quiet import importing, quiet_libraries
from adapthub.cli.text import duration, one_line, size
from adapthub.cli.training_options import plan_arguments, run_arguments, training_options

if TYPE_CHECKING:
    from adapthub.recipes import Plan
    from adapthub.recipes.planning import PlannedSplit
    from adapthub.recipes.trial import Trial

_SPLIT_COLUMNS = ("split", "source", "rows", "targets", "supervised", "truncated", "tokens_a_row")
_MOST_CLASSES = 20


@click.command()
@base_option("none; it must be named")
@quantize_option("none")
@room_options
@click.option("--rank", type=int, default=16, show_default=True, help="Of the adapters.")
@json_option
def plan_serve(
    base: str | None,
    quantize: str | None,
    kv_tokens: int | None,
    max_rows: int | None,
    slots: int | None,
    rank: int,
    as_json: bool,
) -> None:
    """Show what serving a base for generation would take, before it is loaded: what adapt plan --serve runs."""
    quiet_libraries()
    if not base:
        raise InvalidSettings("adapt plan --serve needs a base model", hint="Name it with --base.")
    from adapthub.runtime.capacity import capacity
    from adapthub.runtime.generation import Limits

    limits = (
        Limits(kv_tokens=kv_tokens) if max_rows is None else Limits(kv_tokens=kv_tokens, max_rows=max_rows)
    )
    quantize = None if quantize == "none" else quantize
    found = capacity(find_base(base), quantize, limits=limits, slots=slots, rank=rank)
    if as_json:
        show_json(asdict(found))
        return
    second_copies = (
        {"second_copies": f"{size(found.packed_bytes)} of weights, to multiply faster"}
        if found.packed_bytes
        else {}
    )
    graphs = (
        {"graphs": f"{size(found.graph_bytes)} at most, beside the driver's"} if found.graph_bytes else {}
    )
    show_record(
        {
            "base": f"{found.base}, {found.quantize or found.dtype} on {found.device}: {size(found.base_bytes)}",
            **second_copies,
            "keys_and_values": f"{found.kv_tokens:,} tokens of {size(found.kv_token_bytes)}: {size(found.kv_bytes)}",
            "longest_request": f"{found.context:,} tokens",
            "slots": f"{found.slots:,} of {size(found.adapter_bytes)} (LoRA r{found.rank}): {size(found.slot_bytes)}",
            "stacks": f"{size(found.stack_bytes)} at most, while many LoRAs decode together",
            "passes": f"{size(found.pass_bytes)} at most, for activations and products",
            **graphs,
            "free": f"{size(found.free)}, of which {size(max(found.left, 0))} stay",
        }
    )
    if found.left < 0:
        announce(
            f"This does not fit: {size(-found.left)} are missing. Lower --kv-tokens or --slots, or quantize."
        )


class _Plan(click.Command):
    """`plan`, whose --serve is another question with other options."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if "--serve" not in args:
            return super().make_context(info_name, args, parent, **extra)
        rest = [argument for argument in args if argument != "--serve"]
        return plan_serve.make_context(f"{info_name} --serve", rest, parent, **extra)


@click.command(cls=_Plan)
@click.option(
    "--serve", is_flag=True, help="Instead: what serving --base takes; see adapt plan --serve --help."
)
@training_options
@click.option(
    "--no-try",
    is_flag=True,
    help="Do not try the first steps: memory is then a rough estimate, time unknown.",
)
@inspect_option
@json_option
def plan(*, serve: bool, no_try: bool, inspect: bool, as_json: bool, **options: Any) -> None:
    """Show what adapt train would do with the same options.

    The resolved run, how much of the model is trained, why the defaults are what they are, the splits, what is
    worth knowing of the data, and three samples with their labels. The first steps are tried, in a process of
    their own that leaves nothing: so it is known what memory and time the run will take, and what batch fits.

    \b
    Example:
      $ adapt plan --task ner --data train.conll --base package:minilm
      $ adapt plan --task ner --data train.conll --base package:minilm --inspect
      $ adapt plan --no-try --task sentiment --data reviews.csv --base package:minilm --method prefix --json
      $ adapt plan --serve --base package:smollm2-135m --quantize nf4
    """
    quiet_libraries()
    arguments = plan_arguments(run_arguments(**options))

    with importing():
        from adapthub.recipes import plan as plan_run

    planned = plan_run(**arguments, try_steps=not (no_try or inspect), report=announce)
    if inspect:
        show_samples(planned.samples, as_json=as_json)
        return
    show_plan(planned, as_json=as_json)


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
    show_table([{**asdict(split), "tokens_a_row": _lengths(split)} for split in plan.splits], _SPLIT_COLUMNS)
    if plan.splits[0].classes:
        click.echo()
        _show_classes(plan.splits)
    for note in plan.notes:
        click.echo(one_line(note))
    for sample in plan.samples:
        click.echo(f"\n{one_line(sample.source)}: {one_line(sample.text)}")
        show_table([dict(zip(sample.columns, row, strict=True)) for row in sample.rows], sample.columns)


def _lengths(split: PlannedSplit) -> str | None:
    found = split.lengths
    return f"{found['median']}, 95 % {found['p95']}, longest {found['longest']}" if found else None


def _show_classes(splits: Sequence[PlannedSplit]) -> None:
    """Rows a label, by split: the most frequent of training first."""
    labels = list(dict.fromkeys(label for split in splits for label in split.classes))
    shown = labels[:_MOST_CLASSES]
    show_table(
        [
            {"label": one_line(label), **{split.split: _share(split, label) for split in splits}}
            for label in shown
        ],
        ("label", *(split.split for split in splits)),
    )
    if len(labels) > len(shown):
        click.echo(f"and {len(labels) - len(shown)} labels with fewer rows (--json has all)")


def _share(split: PlannedSplit, label: str) -> str:
    count = split.classes.get(label, 0)
    return f"{count} ({count / split.rows:.0%})"


def summary(plan: Plan) -> dict[str, Any]:
    """The run in a few lines, for a person."""
    return {
        **{name: getattr(plan, name) for name in ("task", "method", "base", "quantize", "seed", "labels")},
        "steps": plan.steps,
        "steps_between_evaluations": plan.eval_steps,
        "trained": f"{plan.trainable:,} parameters, {plan.trainable_share:.2%} of the base's",
        "adapter": f"{size(plan.adapter_bytes)}, {plan.adapter_share:.2%} of the base's {size(plan.base_bytes)}",
        **(
            {"estimated_memory": f"{size(plan.estimated_memory)}, roughly"}
            if plan.trial is None
            else _tried(plan.trial)
        ),
    }


def _tried(trial: Trial) -> dict[str, Any]:
    device = f", and {size(trial.device_memory)} of the GPU" if trial.device_memory is not None else ""
    parts = (
        f"{duration(trial.loading)} before the first step, {duration(trial.training)} of training"
        f" ({trial.step:.3g} s a step), {duration(trial.measuring)} to save and measure"
    )
    return {
        "memory": f"{size(trial.memory)}{device}",
        "time": f"{duration(trial.seconds)}: {parts}",
        "largest_batch": "-" if trial.largest_batch is None else f"{trial.largest_batch:,} rows fit",
    }
