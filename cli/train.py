"""`adapt train`: options in, a run out. `recipes.train` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.failures import first_process
from adapthub.cli.inspect import inspect_option, show_samples
from adapthub.cli.output import announce, json_option, show_json
from adapthub.cli.quiet import importing, quiet_libraries
from adapthub.cli.training_options import plan_arguments, run_arguments, training_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapthub.recipes import TrainingResult


@click.command()
@training_options
@click.option("--dry-run", is_flag=True, help="Show what adapt plan --no-try shows; train nothing.")
@inspect_option
@json_option
def train(*, dry_run: bool, inspect: bool, as_json: bool, **options: Any) -> None:
    """Train an adapter on labelled data over a base model.

    Everything is checked before the first step. When it is trained it is measured as it will be served, and
    published with --push. Ctrl-C keeps a checkpoint and says how to resume. A run leaves a folder: the adapter,
    the loss curve, a TensorBoard log, checkpoints.

    \b
    Example:
      $ adapt train --task ner --data train.conll --base package:minilm --dry-run
      $ adapt train --task ner --data train.conll --test test.conll --base package:minilm \\
          --quantize nf4 --max-steps 20 --output runs/ner
      $ adapt train --task ner --data train.conll --base package:minilm --rank 8 --max-steps 20 \\
          --name acme/ner --push
      $ adapt train --task sentiment --data reviews.csv --base package:minilm \\
          --max-steps 20 --set max_length=48 --json
      $ adapt train --config run.yaml
      $ adapt train --from acme/ner --data train.conll --max-steps 20 --name acme/ner-more --push
      $ adapt train --from-run runs/ner
    """
    quiet_libraries()
    arguments = run_arguments(**options)
    if dry_run or inspect:
        from adapthub.cli.plan import show_plan
        from adapthub.recipes import plan

        planned = plan(**plan_arguments(arguments), report=announce)
        if inspect:
            show_samples(planned.samples, as_json=as_json)
        else:
            show_plan(planned, as_json=as_json)
        return

    with importing():
        from adapthub.recipes import train as train_adapter

    result = train_adapter(**arguments, quiet=as_json, report=announce)
    if not first_process():
        return
    if as_json:
        show_json(result_record(result))
    else:
        show_result(result, arguments["name"])


def result_record(result: TrainingResult) -> dict[str, Any]:
    """A finished run with stable keys."""
    from adapthub.hub.documents import version_record

    return {
        "run": str(result.run.path),
        "adapter": str(result.artifact.path),
        "digest": result.artifact.digest,
        "size": result.artifact.size,
        "steps": steps_record(result),
        "metrics": metrics_record(result),
        "published": None if result.version is None else version_record(result.version),
    }


def steps_record(result: TrainingResult) -> dict[str, int]:
    """How many steps were planned and taken, and after which one the weights were kept."""
    from adapthub.recipes.run import checkpoint_state

    checkpoint = result.run.last_checkpoint()
    state = checkpoint_state(checkpoint) if checkpoint is not None else None
    if state is None:
        return {}
    taken = state["global_step"]
    return {"planned": state["max_steps"], "taken": taken, "kept": state["best_global_step"] or taken}


def steps_text(steps: Mapping[str, int], metric: str) -> str | None:
    """What is worth saying of the steps: that the run stopped early, that an earlier step was kept."""
    if not steps or steps["kept"] == steps["planned"]:
        return None
    if steps["taken"] == steps["planned"]:
        return f"Kept step {steps['kept']} of {steps['planned']}, where validation {metric} was best."
    return (
        f"Stopped early at step {steps['taken']} of {steps['planned']}: validation {metric} was best at step"
        f" {steps['kept']}, which is kept. --set patience=N waits longer."
    )


def metrics_record(result: TrainingResult) -> dict[str, Any]:
    """Split, then metric, then value, low, high and n."""
    return {
        split: {metric: vars(estimate) for metric, estimate in metrics.items()}
        for split, metrics in result.metrics.items()
    }


def show_result(result: TrainingResult, name: str | None) -> None:
    """What a person wants to know of a finished run, and what to do next."""
    from adapthub.cli.output import show_record
    from adapthub.cli.records import estimate_text
    from adapthub.cli.text import size

    show_curve(result)
    if words := steps_text(steps_record(result), selecting(result)):
        click.echo(words)
    for split, metrics in result.metrics.items():
        for metric in (name for name in headline(result) if name in metrics):
            click.echo(f"{split} {metric} {estimate_text(metrics[metric])}")
    artifact = result.artifact
    show_record({"adapter": f"{artifact.path} ({size(artifact.size)})", "digest": artifact.digest})
    if result.version is not None:
        click.echo(
            f'Published {result.version.name}@v{result.version.number}; try: adapt run {name} "some text"'
        )
    else:
        click.echo(f"To publish it: adapt push {artifact.path} {name or 'namespace/name'}")


def show_curve(result: TrainingResult) -> None:
    """The loss over the steps, as text."""
    from adapthub.cli.output import coloured
    from adapthub.recipes.curves import Curves, text

    click.echo(text(Curves.of(result.run.history, headline(result)[0]), colour=coloured()))


def headline(result: TrainingResult) -> tuple[str, ...]:
    """The names of the metrics that sum the run up; the others are one a class."""
    return result.recipe.metrics


def selecting(result: TrainingResult) -> str:
    """What chose the step that was kept."""
    from adapthub.recipes.recipe import selects

    return selects(result.recipe)
