"""Many runs of one task with other settings, and the best of them: optuna chooses what to try, and ends what falls behind.

Every trial is a whole run in a folder of its own, measured on the validation split alone: the test split is for the end,
once. A sweep that was interrupted goes on where it stopped. Does not train (training does).

Settings to try are proposed by the tree-structured Parzen estimator (Bergstra et al. 2011); a trial whose validation is
below the median of the others at the same evaluation ends (optuna's MedianPruner).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import optuna
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import (
    InvalidData,
    InvalidSettings,
    OutOfMemory,
    TrainingError,
    TrainingInterrupted,
)
from adapthub.recipes import run as runs
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.job import Job, check_given, prepare
from adapthub.recipes.recipe import LabellingRecipe, selects
from adapthub.recipes.training import train

_RANGE = re.compile(r"(?P<low>[^.|]+(?:\.\d+)?(?:[eE][-+]?\d+)?)\.\.(?P<high>.+)")
_DECADE = 10.0  # a range this wide is tried by orders of magnitude
_STORED = "sweep.db"
_COMMON, _WHY, _RUN = "configuration", "why", "run"  # what a study, a failed trial and any trial remember
# The last two: what does not go together, such as lengths with the base, or with the rows, of which none may be left.
_FAILURES = (OutOfMemory, TrainingError, InvalidSettings, InvalidData)
_STATES = {"COMPLETE": "complete", "PRUNED": "stopped"}
_ARGUMENTS = frozenset(signature(train).parameters)
_METHOD = "method"  # alone of these may differ from trial to trial


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `whole`: no others between. Wide ranges are drawn by their logarithm."""

    low: float
    high: float
    whole: bool

    @property
    def logarithmic(self) -> bool:
        """Whether orders of magnitude count alike."""
        return self.low > 0 and self.high / self.low >= _DECADE

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """What a trial shall try."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.logarithmic)
        return trial.suggest_float(name, self.low, self.high, log=self.logarithmic)

    def meant(self, chosen: float) -> float:
        """The value that optuna has as `chosen`: itself."""
        return chosen

    @property
    def ends(self) -> tuple[float, ...]:
        """The least and the most that may be tried."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@dataclass(frozen=True)
class Choice:
    """One of some values, of which any may be a list, as of names of modules."""

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """What a trial shall try."""
        return self.meant(trial.suggest_categorical(name, tuple(map(_scalar, self.values))))

    def meant(self, chosen: Any) -> Any:
        """The value that optuna has as `chosen`."""
        return next(
            (value for value in self.values if isinstance(value, (list, tuple)) and _scalar(value) == chosen),
            chosen,
        )

    @property
    def ends(self) -> tuple[Any, ...]:
        """All that may be tried."""
        return self.values


@dataclass(frozen=True)
class Trial:
    """One run. `number`: of its folder `run`, from 1, interrupted ones counted; `place`: among those that ended.

    `value`: the best that the validation came to, the last of a trial that was stopped; None where it ended by an error.
    `state`: "complete", "stopped" (behind the others) or "failed", with `why`.
    """

    number: int
    place: int
    settings: Mapping[str, Any]
    value: float | None
    state: str
    run: Path
    why: str = ""


@dataclass(frozen=True)
class Sweep:
    """All trials, and the best: highest by `metric`, or lowest where that is a loss."""

    metric: str
    trials: tuple[Trial, ...]
    best: Trial


def space_of(text: str) -> Range | Choice:
    """`1e-4..1e-2`, `4..64` (whole numbers) or `lora|dora`. Raises InvalidSettings for anything else."""
    if match := _RANGE.fullmatch(text):
        low, high = (_number(match[part], text) for part in ("low", "high"))
        if not low < high:
            raise InvalidSettings(f"{text}: a range goes from a lower number to a higher one")
        whole = all(re.fullmatch(r"[-+]?\d+", match[part]) for part in ("low", "high"))
        return Range(low, high, whole)
    values = tuple(map(_value, text.split("|")))
    if len(values) < 2:
        raise InvalidSettings(f"{text!r} is nothing to choose from", hint="Write LOW..HIGH or ONE|OTHER.")
    return Choice(values)


def sweep(
    task: str,
    data: str | Path | Any,
    *,
    base: Base | str | None = None,
    space: Mapping[str, Range | Choice],
    trials: int,
    output: str | Path,
    quantize: str | None = None,
    device: str = "auto",
    seed: int = 0,
    tell: Callable[[Trial], None] = lambda trial: None,
    report: Callable[[str], None] = lambda note: None,
    **fixed: Any,
) -> Sweep:
    """Run until there are `trials`, those of an earlier call with the same `output` included; `tell` hears of each,
    `report` of what `train` would note of data and base, once.

    `fixed`: arguments of `train` that every trial shares; a validation split is needed, and a test split is not looked at.
    Raises InvalidSettings, also for an end of a range that cannot work, and where `output` holds another sweep; what `train`
    raises before it loads a base; TrainingError where no trial ends well.
    """
    recipe = find_recipe(task)
    if fixed.get("start") is not None:
        raise InvalidSettings("a sweep begins anew, not from an adapter", hint="Leave start out.")
    if not space:
        raise InvalidSettings(
            "there is nothing to try", hint="Give ranges, such as learning_rate=1e-4..1e-2."
        )
    check_space(space)
    if fixed.get("validation") is False:
        raise InvalidSettings(
            "trials are compared on a validation split", hint="Give one, or let one be set aside."
        )
    job = prepare(
        task,
        data,
        base=base.resolved if isinstance(base, Base) else base,
        quantize=base.quantization if isinstance(base, Base) else quantize,
        method=fixed.get("method"),
        validation=fixed.get("validation"),
        test=False,
        seed=seed,
        given={name: value for name, value in fixed.items() if name not in _ARGUMENTS},
        report=report,
    )
    _check_ends(job, space, {name: value for name, value in fixed.items() if name not in _ARGUMENTS})
    for note in job.notes:
        report(note)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with _study(folder, task, higher=isinstance(recipe, LabellingRecipe), seed=seed) as study:
        _check_same(study, folder, _configuration(job, space))
        loaded = base if isinstance(base, Base) else load_base(job.base.ref, quantize=quantize, device=device)
        metric = selects(recipe)
        # What is cheap to look at depends on what is tried; trials are compared on the same rows.
        if "eval_rows" not in space:
            fixed = {"eval_rows": job.settings.eval_rows, **fixed}

        def objective(trial: optuna.Trial) -> float:
            settings: dict[str, Any] = {name: one.suggest(trial, name) for name, one in space.items()}
            watch = _Watch(trial, f"eval_{metric}")
            run = folder / f"trial-{trial.number + 1}"
            trial.set_user_attr(_RUN, run.name)
            try:
                train(
                    task,
                    data,
                    base=loaded,
                    output=run,
                    seed=seed,
                    quiet=True,
                    report=lambda note: None,
                    test=False,
                    callbacks=(watch,),
                    **fixed,
                    **settings,
                )
                return watch.best
            except TrainingInterrupted as error:
                raise TrainingInterrupted(
                    f"interrupted in {run}; the trials before are kept in {folder}",
                    hint=f"Go on with the same arguments and output={str(folder)!r}; this trial will not count.",
                ) from error
            except _FAILURES as error:
                trial.set_user_attr(_WHY, error.message)
                raise

        def after(study: optuna.Study, frozen: optuna.trial.FrozenTrial) -> None:
            tell(_trial(folder, frozen, len(_ended(study)), space))

        left = trials - len(_ended(study))
        if left > 0:
            study.optimize(objective, n_trials=left, catch=_FAILURES, callbacks=[after])
        done = tuple(_trial(folder, frozen, place, space) for place, frozen in enumerate(_ended(study), 1))
    complete = {
        trial.value: trial
        for trial in reversed(done)
        if trial.state == "complete" and trial.value is not None
    }
    if not complete:
        raise TrainingError(f"no trial ended well; the first: {done[0].why}", hint="Try other ranges.")
    best = (max if isinstance(recipe, LabellingRecipe) else min)(complete)
    return Sweep(metric, done, complete[best])


def check_space(space: Mapping[str, Range | Choice]) -> None:
    """Raises InvalidSettings for what cannot differ from trial to trial."""
    if common := sorted(name for name in space if name in _ARGUMENTS and name != _METHOD):
        raise InvalidSettings(
            f"{common[0]!r} is the same in all trials of a sweep",
            hint="Try settings of the recipe or the method, or the method.",
        )


def _check_ends(job: Job, space: Mapping[str, Range | Choice], given: Mapping[str, Any]) -> None:
    """Refuse what no trial could use, before the first one; `given`: settings that all share. Raises InvalidSettings."""
    methods = space[_METHOD].ends if _METHOD in space else (job.method,)
    for method in map(str, methods):
        check_given(job, method, given)
        for name, one in space.items():
            for value in one.ends if name != _METHOD else ():
                check_given(job, method, {**given, name: value})


class _Watch(TrainerCallback):
    """Tells optuna of every evaluation, and ends a trial that falls behind."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial = trial
        self._metric = metric
        self._values: list[float] = []

    @property
    def best(self) -> float:
        """Of all evaluations so far. Raises TrainingError where none came to a number."""
        if not self._values:
            raise TrainingError(
                f"{self._metric.removeprefix('eval_')} on the validation split was never a number"
            )
        highest = self._trial.study.direction == optuna.study.StudyDirection.MAXIMIZE
        return (max if highest else min)(self._values)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        value = (metrics or {})[self._metric]
        if math.isfinite(value):
            self._values.append(value)
        self._trial.report(value, state.global_step)
        if self._trial.should_prune():
            raise optuna.TrialPruned


@contextmanager
def _study(folder: Path, task: str, *, higher: bool, seed: int) -> Iterator[optuna.Study]:
    """The trials of a folder, whose file is open within."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / _STORED}")
    try:
        before = optuna.get_all_study_names(storage)  # one at most, if of another task: see _check_same
        study = optuna.create_study(
            study_name=before[0] if before else task,
            storage=storage,
            load_if_exists=True,
            direction="maximize" if higher else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
        )
        # A sampler begins its draws anew in every process: by one seed a sweep that goes on would try the same again.
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _configuration(job: Job, space: Mapping[str, Range | Choice]) -> dict[str, Any]:
    """What all trials of a sweep have in common."""
    settings = {name: value for name, value in job.hyperparameters.items() if name not in space}
    ranges = {name: vars(one) for name, one in space.items()}
    return runs.plain({**job.configuration, "settings": settings, "space": ranges})


def _check_same(study: optuna.Study, folder: Path, wanted: Mapping[str, Any]) -> None:
    """Remember what the trials have in common. Raises InvalidSettings where those before had something else, but for what
    they are measured by in the end: the best is chosen by what validation came to while they learnt."""
    before = study.user_attrs.get(_COMMON)
    if before is not None and (differing := runs.learning_otherwise(before, wanted)):
        raise InvalidSettings(
            f"{folder} holds another sweep: {'; '.join(differing)}", hint="Choose another output folder."
        )
    study.set_user_attr(_COMMON, wanted)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that came to something, if only to an error that is theirs: not those that were interrupted."""
    return [
        trial
        for trial in study.trials
        if trial.state.name in _STATES or (trial.state.name == "FAIL" and _WHY in trial.user_attrs)
    ]


def _trial(
    folder: Path, frozen: optuna.trial.FrozenTrial, place: int, space: Mapping[str, Range | Choice]
) -> Trial:
    state = _STATES.get(frozen.state.name, "failed")
    value = frozen.value if frozen.value is not None and math.isfinite(frozen.value) else None
    why = str(frozen.user_attrs.get(_WHY, "")) if state == "failed" else ""
    settings = {name: space[name].meant(chosen) for name, chosen in frozen.params.items()}
    # Sweeps from before that was remembered counted folders from 0.
    run = folder / str(frozen.user_attrs.get(_RUN, f"trial-{frozen.number}"))
    return Trial(int(run.name.rpartition("-")[2]), place, settings, value, state, run, why)


def _scalar(value: Any) -> Any:
    """A value as optuna keeps it, which has no lists."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InvalidSettings(f"{whole}: {text!r} is no number", hint="Write LOW..HIGH.") from None
    if not math.isfinite(value):
        raise InvalidSettings(f"{whole}: {text!r} is no end of a range")
    return value


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
