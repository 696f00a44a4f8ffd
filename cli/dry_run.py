"""What `adapt train --dry-run` shows of a prepared job: settings, splits, and three samples as the model sees
them. Prepares nothing itself.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import show_json, show_record, show_table
from adapthub.cli.text import one_line

if TYPE_CHECKING:
    from adapthub.recipes.job import Job
    from adapthub.recipes.recipe import Preview

SAMPLES = 3


def show_job(job: Job, *, as_json: bool) -> None:
    """Print the resolved run."""
    if as_json:
        show_json({**job_record(job), "samples": [asdict(preview) for preview in previews(job)]})
        return
    record = job_record(job)
    show_record(
        {key: record[key] for key in ("task", "method", "base", "quantize", "seed", "labels", "steps")}
    )
    click.echo("\nSettings")
    show_record(record["settings"])
    click.echo("\nData")
    show_table(record["splits"], ("split", "source", "rows", "targets", "supervised", "truncated"))
    for preview in previews(job):
        click.echo(f"\n{one_line(preview.source)}: {one_line(preview.text)}")
        show_table([dict(zip(preview.columns, row, strict=True)) for row in preview.rows], preview.columns)


def job_record(job: Job) -> dict[str, Any]:
    """The run that would start, with stable keys.

    `targets` counts labels in the data, `supervised` those that the loss sees after truncation, `truncated`
    rows that were cut.
    """
    return {
        "task": job.recipe.name,
        "method": job.method,
        "base": job.base.ref,
        "base_fingerprint": job.base.fingerprint.digest,
        "quantize": job.quantize,
        "seed": job.seed,
        "labels": list(job.labels),
        "steps": job.steps,
        "settings": job.hyperparameters,
        "splits": [
            {
                "split": name,
                "source": split.dataset.source,
                "rows": len(split.dataset),
                "targets": split.encoded.targets,
                "supervised": split.encoded.supervised,
                "truncated": split.encoded.truncated,
            }
            for name, split in job.splits.items()
        ],
    }


def previews(job: Job) -> list[Preview]:
    """Samples spread over the training split."""
    some = job.splits["train"].some(SAMPLES)
    return [
        job.recipe.preview(job.tokenizer, some.dataset, some.encoded, job.labels, index)
        for index in range(len(some.dataset))
    ]
