"""`train`: from labelled data and a base to an adapter that is saved, measured and published.

    read, split and encode (job) -> base -> rehearsal of the end (outcome) -> PEFT model (adaptation) -> preflight
      -> transformers' Trainer (loop) -> artifact -> the served artifact equals the trained model
      -> metrics, measured as served -> artifact with metrics -> push

A run leaves a folder (run). What was trained survives whatever fails later: the artifact is written before
it is measured, and a run that ended in its last steps is resumed there. Does not know tasks (recipes do) or
parse options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from transformers import set_seed

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import AdaptHubError, InvalidSettings, TrainingInterrupted
from adapthub.adapters.memory import memory_errors
from adapthub.recipes import run as runs
from adapthub.recipes.adaptation import Adaptation, adapt, precision
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.economy import keep_few_primitives
from adapthub.recipes.environment import hardware, libraries
from adapthub.recipes.eva import initialise
from adapthub.recipes.first_checks import check_run
from adapthub.recipes.interrupt import StoppedAtStep
from adapthub.recipes.job import Job, prepare
from adapthub.recipes.loop import fit
from adapthub.recipes.metrics import Estimate
from adapthub.recipes.outcome import Outcome, compared_outputs, compared_rows, rehearse
from adapthub.recipes.preflight import check_name, check_optimizer, check_shares
from adapthub.recipes.processes import Processes, join
from adapthub.recipes.recipe import Recipe
from adapthub.recipes.repeating import changes, check_same, sources
from adapthub.recipes.run import Run
from adapthub.recipes.sharding import check_shardable
from adapthub.recipes.tracking import check_trackers, tell_measured, tracked
from adapthub.recipes.warm_start import Parent, base_of, find_parent

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from adapthub.hub.registry import Registry, Version


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. `metrics` by split and name; `version` is what was published, if anything was."""

    artifact: Artifact
    metrics: Mapping[str, Mapping[str, Estimate]]
    run: Run
    version: Version | None
    recipe: Recipe


def train(
    task: str,
    data: str | Path | Any,
    *,
    base: Base | str | None = None,
    quantize: str | None = None,
    start: Parent | Artifact | str | Path | None = None,
    name: str | None = None,
    method: str | None = None,
    validation: str | Path | Any | Literal[False] | None = None,
    test: str | Path | Any | Literal[False] | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    resume: bool | str | Path = False,
    hub: Registry | str | None = None,
    push: bool = False,
    message: str = "",
    alias: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = False,
    report: Callable[[str], None] | None = None,
    repeats: Run | None = None,
    track: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Any,
) -> TrainingResult:
    """Train an adapter, measure it on the validation and test splits as it will be served, and publish it if
    `push`.

    `data`: a file that the recipe `task` reads, a folder with train.*, validation.* and test.*, rows, a
    datasets.Dataset, a mapping of splits (DatasetDict), or the folder that one of these was saved to.
    `validation` and `test` go before what `data` brings. Without a validation split a tenth of the training rows, 10,000
    at most, is set aside, chosen by content; `validation=False` trains without: nothing chooses the best step or stops
    early, the last weights are kept. `test=False` leaves a test split of `data` alone. Without a `base` it is that of
    `start`, else default_base's, chosen by task and data.

    `start`: an adapter to go on from, a name on a hub or a folder (warm_start): its base, method and method's settings
    hold, and need not be given; its head is taken over where the labels are equal.

    `output`: the run's folder, by default a new one under runs/. `resume`: a run's folder, or True for
    `output` or the latest unfinished run of this configuration. `name`: namespace/name to publish under.
    `settings`: how long and how fast (epochs or max_steps, batch_size, learning_rate, head_learning_rate,
    lora_plus_ratio, warmup, weight_decay, eval_steps, eval_rows, patience, max_length, precision, packing,
    gradient_accumulation, gradient_checkpointing, optimizer), the method's
    (rank, alpha, dropout, target_modules, trainable_tokens, init; prefix_length; prompt_length; peft_config) and the
    recipe's reading options.

    `report` takes each note on the data and the run before the first step (the base that was chosen, rows set aside,
    leaks, versions or hardware that differ from those of a run that goes on or is repeated), and of what was chosen
    after the last; by default they go to stderr, unless `quiet`, as the progress bar does.

    `track`: where the run is told of besides its folder ("wandb", "trackio"); `callbacks`: transformers' own, of the caller.

    Started as one of several processes (accelerate launch, torchrun), this trains with the others: `batch_size` rows a
    step over all, each process its share of them. The first one alone writes, shows and measures; all return the same.

    `repeats`: a finished run that this one is to repeat (repeating.repeated gives all arguments).

    Raises, before the first step, Unauthorized or Forbidden (a push that will be refused), Unreachable, InvalidSettings,
    InvalidData, BaseNotFound, BaseMismatch, OutOfMemory, StorageError, Conflict, TrainingError (a save and reload
    that differs); then TrainingInterrupted (Ctrl-C, SIGTERM: says how to resume), OutOfMemory and TrainingError
    (no gradient, NaN). A push that fails raises its own error and says where the adapter is.
    """
    if isinstance(base, Base) and quantize not in (None, base.quantization):
        raise InvalidSettings(
            f"quantize={quantize!r} does not fit the base given, which is {base.quantization}"
        )
    keep_few_primitives()
    check_trackers(track)
    _check_output(output, resume)
    # of all that is asked the first: reading the data may take long
    registry = _registry(name, find_recipe(task).task, hub, alias) if push else None
    loaded = base if isinstance(base, Base) else None
    parent = find_parent(start, hub)
    if base is None:
        base, quantize = base_of(parent, quantize)
    job = prepare(
        task,
        data,
        base=base.resolved if isinstance(base, Base) else base,
        quantize=loaded.quantization if loaded else quantize,
        method=method,
        validation=validation,
        test=test,
        seed=seed,
        given=settings,
        parent=parent,
        report=report,
    )
    if repeats is not None:
        check_same(job, repeats)
    processes = join(device if loaded is None else loaded.device.type)
    check_shares(job.recipe, job.settings.batch_size, processes, loaded=loaded is not None)
    console = Console(stderr=True) if processes.first and not quiet else None
    load = partial(load_base, job.base.ref, quantize=quantize, device=device, dtype=dtype)
    base = loaded or load()
    if processes.shards:
        check_shardable(base)
    check_optimizer(job.settings.optimizer, base.device)
    job = job.computing_in(precision(job.settings.precision, base.device, base.dtype))
    with memory_errors("checking the run", job.smaller):
        processes.by_first(partial(rehearse, job, base))
    with ExitStack() as trackers:
        adaptation = _begin(job, base)
        try:
            processes.by_first(partial(check_run, job, base, adaptation, Path(output or runs.RUNS)))
            given = sources(job, base, task, data, validation, test, hub)
            run = processes.by_first(partial(_run, job, base, name, output, resume, given, processes))
            tell = _teller(report if processes.first else None, console)
            for note in (*job.notes, *_changes(run, base, resume is not False, repeats, processes)):
                tell(note)
            outcome = Outcome(job, base, run, name, processes, tell)
            with _interruptible(job, run):
                set_seed(seed)
                fit(
                    job,
                    base,
                    adaptation,
                    run,
                    console=console,
                    callbacks=(
                        *trackers.enter_context(tracked(track if processes.first else ())),
                        *callbacks,
                    ),
                    processes=processes,
                )
                _save(job, base, adaptation, run, outcome, processes)
        finally:
            adaptation.release()
        with (
            _interruptible(job, run),
            _kept(run, f"Measure it with the same command and --resume {run.path}"),
        ):
            artifact, metrics = processes.by_first(
                partial(_measured, outcome, load if processes.shards else None)
            )
            processes.by_first(partial(tell_measured, track, run, metrics, tell))
            trackers.close()  # may wait long, for what is still to be sent
    version = None
    if push and name is not None:
        publish = partial(_publish, registry, artifact, name, message=message, alias=alias)
        with _kept(run, f"Publish it with: adapt push {run.adapter} {name}"):
            version = processes.by_first(publish)
    return TrainingResult(artifact, metrics, run, version, job.recipe)


def _check_output(output: str | Path | None, resume: bool | str | Path) -> None:
    """Raises Conflict where a new run's folder is in use, InvalidSettings where a run that goes on has another."""
    if output is None or resume is True:
        return
    if resume is False:
        runs.check_unused(Path(output))
    elif Path(output).resolve() != Path(resume).resolve():
        raise InvalidSettings(
            f"a run that goes on stays in its folder, {resume}; output={str(output)!r} is another",
            hint="Leave output out.",
        )


def _registry(name: str | None, task: str, hub: Registry | str | None, alias: str | None) -> Registry:
    """The hub to publish to, after it agreed to the name and the alias, and to whoever publishes."""
    from adapthub.hub import open_hub
    from adapthub.hub.reference import check_alias

    if name is None:
        raise InvalidSettings("nothing to publish under", hint="Give name='namespace/name'.")
    registry: Registry = open_hub(hub) if hub is None or isinstance(hub, str) else hub
    if alias is not None:
        check_alias(alias)
    check_name(name, task, registry)
    return registry


def _begin(job: Job, base: Base) -> Adaptation:
    """The adapter before its first step: fresh, or as its parent ended."""
    set_seed(job.seed)
    parent = job.parent
    adaptation = adapt(base, job.task, job.labels, job.method, job.adapter, job.ranks)
    try:
        if parent is not None:
            parent.take_over(adaptation, job.labels)
        elif job.adapter.get("init") == "eva":
            initialise(adaptation, job, base)
    except BaseException:
        adaptation.release()
        raise
    return adaptation


def _save(
    job: Job, base: Base, adaptation: Adaptation, run: Run, outcome: Outcome, processes: Processes
) -> None:
    if processes.first:
        run.mark("trained")
        outcome.save(adaptation)
    elif processes.shards:  # with the first: a layer comes together only where all compute it
        compared_outputs(job, base, adaptation.model, compared_rows(job))


def _measured(
    outcome: Outcome, anew: Callable[[], Base] | None
) -> tuple[Artifact, dict[str, dict[str, Estimate]]]:
    outcome.verify(anew)
    return outcome.measure()


def _publish(registry: Registry | None, artifact: Artifact, name: str, **how: Any) -> Version:
    assert registry is not None
    return registry.push(artifact, name, **how)


def _run(
    job: Job,
    base: Base,
    name: str | None,
    output: str | Path | None,
    resume: bool | str | Path,
    given: Mapping[str, Any],
    processes: Processes,
) -> Run:
    """A new run folder, or the one to resume."""
    path = Path(output) if output is not None else None
    if resume is False:
        here = hardware(base.device, processes.count)
        environment = {"libraries": libraries(), "hardware": here, "dtype": str(base.dtype)}
        called = name or job.recipe.name
        run = runs.start(job.configuration, environment, name=called, path=path, sources=given)
        run.mark("started", notes=list(job.notes))
        return run
    if resume is not True:
        path = Path(resume)
    going_on = runs.resumable(job.configuration, path=path, notes=job.notes)
    return going_on.measured_as(job.configuration, job.options)


def _changes(run: Run, base: Base, resumed: bool, repeats: Run | None, processes: Processes) -> Iterator[str]:
    here = hardware(base.device, processes.count)
    if resumed:
        yield from changes(run, here, doing="resumed")
    if repeats is not None:
        yield from changes(repeats, here, doing="repeated")


def _teller(report: Callable[[str], None] | None, console: Console | None) -> Callable[[str], None]:
    """Where notes go."""
    if report is not None:
        return report
    if console is None:
        return lambda note: None
    return partial(console.print, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _interruptible(job: Job, run: Run) -> Iterator[None]:
    """However a run is interrupted, say what is kept and how to go on."""
    try:
        yield
    except (StoppedAtStep, KeyboardInterrupt) as error:
        step = f" at step {error.step} of {job.steps}" if isinstance(error, StoppedAtStep) else ""
        checkpoint = run.last_checkpoint()
        kept = (
            f"{checkpoint.name} is kept in {run.path}" if checkpoint else f"{run.path} has no checkpoint yet"
        )
        if run.adapter.exists():
            kept = f"{kept}, the trained adapter at {run.adapter}"
        raise TrainingInterrupted(
            f"interrupted{step}; {kept}", hint=f"Resume with the same command and --resume {run.path}."
        ) from error


@contextmanager
def _kept(run: Run, then: str) -> Iterator[None]:
    """An error after training also says where the adapter is, and what to do with it."""
    try:
        yield
    except AdaptHubError as error:
        kept = "" if str(run.adapter) in error.message else f". The trained adapter is kept at {run.adapter}"
        raise type(error)(
            f"{error.message.rstrip('.')}{kept}", hint=f"{error.hint or ''} {then}".strip()
        ) from error
