"""`adapt train`: options in, a run out. `recipes.train` does the work; the dry run shows what it would do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from adapthub.adapters.errors import InvalidSettings
from adapthub.cli.data import data_option, find_splits_of
from adapthub.cli.options import quantize_option
from adapthub.cli.output import json_option, show_json
from adapthub.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from adapthub.recipes import TrainingResult

LATEST = "latest"


@click.command()
@click.option(
    "--task", required=True, metavar="RECIPE", help="What to train: ner, sentiment; see adapt recipes."
)
@data_option
@click.option("--validation", metavar="FILE", help="Chooses the best step and stops early.")
@click.option("--test", metavar="FILE", help="Measured once, at the end.")
@click.option("--base", required=True, metavar="MODEL", help="A Hub id, a folder, or package:NAME.")
@quantize_option("none")
@click.option("--method", default="lora", show_default=True, help="See adapt methods.")
@click.option("--rank", type=int, help="Of LoRA's matrices.")
@click.option("--alpha", type=float, help="LoRA's scale: alpha / rank.")
@click.option("--epochs", type=float, help="Passes over the training data.")
@click.option("--max-steps", type=int, help="Stop after so many steps; overrides --epochs.")
@click.option("--batch-size", type=int, help="Rows a step.")
@click.option("--learning-rate", type=float, help="Peak, of the adapter.")
@click.option("--head-learning-rate", type=float, help="Peak, of the head.")
@click.option("--text-column", help="Where the text is.")
@click.option("--label-column", help="Where the label is; in CoNLL files a number, -1 is the last.")
@click.option("--encoding", help="Of the data files; default utf-8.")
@click.option(
    "--set", "more", multiple=True, metavar="NAME=VALUE", help="Any other setting of recipe or method."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--name", metavar="NAMESPACE/NAME", help="The adapter's name.")
@click.option("--push", is_flag=True, help="Publish as the next version of --name when done.")
@click.option("--alias", help="With --push: point this alias at the new version.")
@click.option("--output", metavar="FOLDER", help="The run's folder; default: a new one under runs/.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value=LATEST,
    metavar="[FOLDER]",
    help="Go on with a run: the one in FOLDER, or the latest unfinished one of these settings.",
)
@click.option("--dry-run", is_flag=True, help="Show the resolved run and three samples; train nothing.")
@json_option
def train(
    *,
    task: str,
    data: str,
    validation: str | None,
    test: str | None,
    base: str,
    quantize: str | None,
    method: str,
    more: tuple[str, ...],
    seed: int,
    name: str | None,
    push: bool,
    alias: str | None,
    output: str | None,
    resume: str | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
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
    """
    if alias is not None and not push:
        raise click.UsageError("--alias needs --push.")
    settings = {name: value for name, value in given.items() if value is not None} | dict(map(setting, more))
    quantization = None if quantize == "none" else quantize
    splits = find_splits_of(data, {"validation": validation, "test": test})
    quiet_libraries()
    if dry_run:
        from adapthub.cli.dry_run import show_job
        from adapthub.recipes.job import prepare

        job = prepare(
            task,
            splits["train"],
            base=base,
            quantize=quantization,
            method=method,
            validation=splits.get("validation"),
            test=splits.get("test"),
            seed=seed,
            given=settings,
        )
        show_job(job, as_json=as_json)
        return

    from adapthub.recipes import train as train_adapter

    result = train_adapter(
        task,
        splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        base=base,
        quantize=quantization,
        method=method,
        name=name,
        output=output,
        seed=seed,
        resume=True if resume == LATEST else resume or False,
        push=push,
        alias=alias,
        quiet=as_json,
        **settings,
    )
    if as_json:
        show_json(result_record(result))
    else:
        show_result(result, name)


def setting(text: str) -> tuple[str, Any]:
    """`max-length=48` as ("max_length", 48): JSON if it is JSON, a list if commas part it, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidSettings(f"--set {text} is not NAME=VALUE")
    parts = value.split(",")
    return name.replace("-", "_"), list(map(_value, parts)) if len(parts) > 1 and all(parts) else _value(
        value
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def result_record(result: TrainingResult) -> dict[str, Any]:
    """A finished run with stable keys."""
    from adapthub.cli.records import version_record

    return {
        "run": str(result.run.path),
        "adapter": str(result.artifact.path),
        "digest": result.artifact.digest,
        "size": result.artifact.size,
        "metrics": metrics_record(result),
        "published": None if result.version is None else version_record(result.version),
    }


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
    for split, metrics in result.metrics.items():
        for metric in headline(result):
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
    from adapthub.recipes.catalog import find_recipe

    return find_recipe(result.run.configuration["task"]).metrics
