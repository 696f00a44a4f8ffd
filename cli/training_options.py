"""The options of a run, which `adapt train` and `adapt plan` share, and what they mean to the library.

Does not plan or train.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from adapthub.adapters.errors import InvalidSettings
from adapthub.cli.config_option import config_options
from adapthub.cli.data import at_home, find_base, find_data
from adapthub.cli.options import (
    Command,
    complete_data,
    complete_files,
    complete_models,
    complete_names,
    device_option,
    hub_option,
    quantize_option,
)
from adapthub.cli.set_option import set_option, settings
from adapthub.cli.vocabulary import OPTIONS

LATEST = "latest"
OF_THE_RUN = (
    "name",
    "push",
    "alias",
    "hub",
    "output",
    "resume",
    "dtype",
    "repeats",
    "track",
)  # decide where and whether a run goes, not what it becomes
_BESIDE_A_REPEAT = (
    "name",
    "push",
    "alias",
    "hub",
    "output",
    "resume",
    "track",
    "from_run",
    "config",
    "dry_run",
    "inspect",
    "no_try",
    "as_json",
)


def _complete_tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from adapthub.recipes.catalog import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def _complete_methods(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from adapthub.adapters.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


# What is trained, on what.
_ANEW = (
    click.option(
        "--task",
        metavar="RECIPE",
        shell_complete=_complete_tasks,
        help="What to train, such as ner; or a file of your own; see adapt recipes. Default: as --from was trained.",
    ),
    click.option(
        "--data",
        metavar="DATA",
        shell_complete=complete_data,
        help="A file, a folder with train.*, validation.* and test.* (or their Parquet shards), sample:NAME, or hf:ORG/NAME "
        "of the Hub.",
    ),
    click.option(
        "--validation",
        metavar="FILE",
        shell_complete=complete_files,
        help="Chooses the best step and stops early. Default: of --data; else a tenth of its rows (10,000 at most), aside.",
    ),
    click.option("--no-validation", is_flag=True, help="Train without: the last step is kept."),
    click.option("--test", metavar="FILE", shell_complete=complete_files, help="Measured once, at the end."),
    click.option(
        "--base",
        metavar="MODEL",
        shell_complete=complete_models,
        help="A Hub id, a folder, or package:NAME. Default: that of --from, or a small one for task and data.",
    ),
    quantize_option("none, or as --from was trained"),
    device_option,
    click.option(
        "--method",
        shell_complete=_complete_methods,
        help="See adapt methods. Default: lora, or that of --from.",
    ),
    click.option(
        "--method-config",
        "peft_config",
        metavar="FILE",
        shell_complete=complete_files,
        help="The method as an adapter_config.json of PEFT's says; of a type that can be served.",
    ),
    click.option("--rank", type=int, help="Of LoRA's matrices."),
    click.option("--alpha", type=float, help="LoRA's scale: alpha / rank."),
    click.option("--epochs", type=float, help="Passes over the training data."),
    click.option("--max-steps", type=int, help="Stop after so many steps; overrides --epochs."),
    click.option("--batch-size", type=int, help="Rows a step."),
    click.option("--max-length", type=int, help="Sub-tokens of a row; what is longer is cut."),
    click.option("--learning-rate", type=float, help="Peak, of the adapter."),
    click.option("--head-learning-rate", type=float, help="Peak, of the head."),
    click.option("--text-column", help="Where the text is."),
    click.option("--label-column", help="Where the label is; in CoNLL files a number, -1 is the last."),
    click.option("--encoding", help="Of the data files; default utf-8."),
    set_option("Any other setting of recipe or method."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True),
    click.option(
        "--output",
        metavar="FOLDER",
        shell_complete=complete_files,
        help="The run's folder; default: a new one under runs/.",
    ),
)
# What of one run goes on from, or to, elsewhere.
_ELSEWHERE = (
    click.option(
        "--from",
        "start",
        metavar="ADAPTER",
        shell_complete=complete_names,
        help="Go on from this adapter, a name or a folder: its base, method, rank and head.",
    ),
    click.option(
        "--from-run",
        metavar="FOLDER",
        shell_complete=complete_files,
        help="Repeat the finished run in this folder exactly; nothing else need be said.",
    ),
    click.option("--name", metavar="NAMESPACE/NAME", help="The adapter's name."),
    click.option("--push", is_flag=True, help="Publish as the next version of --name when done."),
    click.option("--alias", help="With --push: point this alias at the new version."),
    hub_option,
    click.option(
        "--track",
        multiple=True,
        metavar="TRACKER",
        help="Tell wandb or trackio of the run; its folder has TensorBoard's log in any case.",
    ),
    click.option(
        "--resume",
        is_flag=False,
        flag_value=LATEST,
        metavar="[FOLDER]",
        shell_complete=complete_files,
        help="Go on with a run: the one in FOLDER, or the latest unfinished one of these settings.",
    ),
)


def training_options(command: Command) -> Command:
    """Every option of a run, and a file that may hold them."""
    for option in reversed((*_ANEW, *_ELSEWHERE)):
        command = option(command)
    return config_options(command)


def anew_options(command: Command) -> Command:
    """The same without those of one run's past and future: parents, names, hubs, resumes."""
    for option in reversed(_ANEW):
        command = option(command)
    return config_options(command)


def run_arguments(
    *,
    push: bool,
    alias: str | None,
    hub: str | None,
    output: str | None,
    resume: str | None,
    name: str | None,
    from_run: str | None,
    track: tuple[str, ...],
    **options: Any,
) -> dict[str, Any]:
    """The options as the arguments of `recipes.train`."""
    if alias is not None and not push:
        raise click.UsageError("--alias needs --push.")
    if push and name is None:
        raise click.UsageError("--push needs --name.")
    _check_names(name, alias)
    asked = anew_arguments(hub=hub, **options) if from_run is None else _repeated(from_run)
    return {
        **asked,
        "name": name,
        "push": push,
        "alias": alias,
        "hub": hub or asked.get("hub"),
        "output": output,
        "resume": True if resume == LATEST else resume or False,
        "track": track,
    }


def _check_names(name: str | None, alias: str | None) -> None:
    """Raises InvalidReference now rather than after hours of training."""
    from adapthub.hub.reference import check_alias, parse_name

    if name is not None:
        parse_name(name)
    if alias is not None:
        check_alias(alias)


def plan_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments of `recipes.train`, those of `recipes.plan`."""
    return {name: value for name, value in arguments.items() if name not in OF_THE_RUN}


def _repeated(folder: str) -> dict[str, Any]:
    """The arguments that repeat a run. Raises UsageError for an option that would make it another one."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        given = source in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
        if given and parameter.name not in _BESIDE_A_REPEAT:
            raise click.UsageError(
                f"--from-run repeats a run as it was: {parameter.opts[0]} cannot be given."
            )
    from adapthub.recipes.repeating import repeated

    arguments = repeated(folder)
    return {**arguments, "base": find_base(arguments["base"])}


def anew_arguments(
    *,
    task: str | None,
    base: str | None,
    data: str | None,
    start: str | None = None,
    hub: str | None = None,
    validation: str | None,
    no_validation: bool,
    quantize: str | None,
    method: str | None,
    peft_config: str | None,
    more: tuple[str, ...],
    **given: Any,
) -> dict[str, Any]:
    """What is trained, on what, as the arguments of `recipes.train`."""
    if no_validation and validation is not None:
        raise click.UsageError("--validation and --no-validation contradict each other.")
    _require(data=data)
    given = {name: value for name, value in given.items() if value is not None}
    given |= {"test": at_home(given["test"])} if "test" in given else {}
    named = settings(more, of="train")
    if twice := sorted(given.keys() & named.keys()):
        option = OPTIONS[twice[0]]
        raise click.UsageError(f"{twice[0]} is given twice: by {option} and by --set. Leave one out.")
    arguments = {
        **given,
        **named,
        "data": find_data(data or ""),
        "validation": False if no_validation else validation and at_home(validation),
        **_method(method, peft_config),
    }
    if start is not None:
        return {**arguments, **_start(start, hub, task, base, quantize)}
    _require(task=task)
    quantize = None if quantize == "none" else quantize
    base = None if base is None else find_base(base)
    return {**arguments, "task": task, "base": base, "quantize": quantize}


def _method(method: str | None, peft_config: str | None) -> dict[str, Any]:
    """The method by name, or by a configuration of PEFT's."""
    from adapthub.adapters.methods import BY_CONFIGURATION

    if peft_config is None:
        return {} if method is None else {"method": method}
    if method not in (None, BY_CONFIGURATION):
        raise click.UsageError(f"--method-config says the method itself: --method {method} contradicts it.")
    path = Path(peft_config)
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidSettings(
            f"{path} cannot be read as JSON: {error}", hint="Give an adapter_config.json."
        ) from error
    return {"method": BY_CONFIGURATION, "peft_config": fields}


def _start(
    start: str, hub: str | None, task: str | None, base: str | None, quantize: str | None
) -> dict[str, Any]:
    """The adapter to go on from, and what holds of it where nothing else is said."""
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import chosen_base, chosen_quantization
    from adapthub.recipes.warm_start import find_parent

    parent = find_parent(start, open_chosen(hub))
    assert parent is not None
    if task is None and parent.manifest.recipe is None:
        raise InvalidSettings(
            f"{start} does not say with which recipe it was trained", hint="Name it with --task."
        )
    return {
        "start": parent,
        "task": task or parent.manifest.recipe,
        "base": chosen_base(base, parent.artifact),
        "quantize": chosen_quantization(quantize, parent.artifact),
    }


def _require(**options: str | None) -> None:
    """Raises click's own error for an option that is missing: --from and --from-run stand in for some."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in options and options[parameter.name] is None:
            raise click.MissingParameter(ctx=context, param=parameter)
