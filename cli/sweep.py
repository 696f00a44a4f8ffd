"""`adapt sweep`: many runs with other settings, and the best of them. `recipes.sweep` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.adapters.errors import InvalidSettings
from adapthub.cli.output import announce, json_option, show_json, show_table
from adapthub.cli.quiet import quiet_libraries
from adapthub.cli.set_option import LISTS, setting
from adapthub.cli.training_options import anew_arguments, anew_options

if TYPE_CHECKING:
    from adapthub.recipes.sweep import Choice, Range, Sweep, Trial

_FOLDER = "sweeps"


@click.command()
@anew_options
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="NAME=RANGE",
    help="LOW..HIGH (wide ranges by orders of magnitude), or ONE|OTHER, of modules also A,B|C; any number of times.",
)
@click.option("--trials", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
def sweep(*, tries: tuple[str, ...], trials: int, as_json: bool, **options: Any) -> None:
    """Train many times with other settings, and say which are best.

    Takes those options of adapt train that say what is trained; what --try names differs from trial to trial, chosen by
    what the trials before came to. A trial that falls behind ends early. All are compared on the validation split; the
    test split is left for the end. The same command with the same --output goes on with a sweep that was interrupted.

    \b
    Example:
      $ adapt sweep --task ner --data train.conll --base package:minilm --max-steps 20 --trials 2 \\
          --try learning_rate=1e-4..1e-2 --try rank=4..16 --output sweeps/ner
    """
    from adapthub.recipes.sweep import check_space
    from adapthub.recipes.sweep import sweep as run_sweep

    quiet_libraries()
    output = options.pop("output")
    arguments = anew_arguments(**options)
    arguments.pop("test", None)
    space = dict(map(_space, tries))
    check_space(space)
    if given := sorted(name for name in space if arguments.get(name) is not None):
        raise click.UsageError(f"{given[0]} is both set and tried.")
    found = run_sweep(
        **arguments,
        space=space,
        trials=trials,
        output=Path(output or Path(_FOLDER) / Path(arguments["task"]).stem),
        tell=lambda trial: announce(_line(trial, trials)),
        report=announce,
    )
    if as_json:
        show_json(_record(found))
    else:
        _show(found)


def _space(text: str) -> tuple[str, Range | Choice]:
    from adapthub.recipes.sweep import Choice, space_of

    name, equals, values = text.partition("=")
    if not equals or not name:
        raise InvalidSettings(f"--try {text} is not NAME=RANGE")
    name, each = name.replace("-", "_"), values.split("|")
    if name in LISTS and len(each) > 1:
        return name, Choice(tuple(setting(f"{name}={one}")[1] for one in each))
    return name, space_of(values)


def _line(trial: Trial, trials: int) -> str:
    value = "" if trial.value is None else f" {trial.value:.4f}"
    why = f": {trial.why}" if trial.why else ""
    return f"trial {trial.number} ({trial.place} of {trials}), {_settings(trial)}: {trial.state}{value}{why}"


def _settings(trial: Trial) -> str:
    return ", ".join(f"{name}={_plain(value)}" for name, value in trial.settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _record(found: Sweep) -> dict[str, Any]:
    def plain(trial: Trial) -> dict[str, Any]:
        return {**vars(trial), "settings": dict(trial.settings), "run": str(trial.run)}

    return {
        "metric": found.metric,
        "best": plain(found.best),
        "trials": [plain(trial) for trial in found.trials],
    }


def _show(found: Sweep) -> None:
    names = list(found.best.settings)
    rows = [
        {
            "trial": trial.number,
            **{name: _plain(trial.settings.get(name, "")) for name in names},
            found.metric: None if trial.value is None else f"{trial.value:.4f}",
            "state": trial.state,
        }
        for trial in found.trials
    ]
    show_table(rows, ("trial", *names, found.metric, "state"))
    best = found.best
    click.echo(f"Best: {_settings(best)}, validation {found.metric} {best.value:.4f}")
    click.echo(
        f"Its adapter: {best.run / 'adapter'}; measure it once: adapt eval {best.run / 'adapter'} --data DATA"
    )
