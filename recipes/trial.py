"""The first steps of a run, tried in a process of their own: what memory they take, how long, and from that the whole run.

It does what `train` does, with the same code: reads the data, loads the base, rehearses the end, trains the batch of the
longest rows (half of it before, for what a row adds) and some typical ones, evaluates, saves and measures a few rows.
Memory is what it then took at most. Time is each part's, by how much of it there will be: a step's by its tokens (least
squares over those tried), evaluations' by the tokens they compute, the last measure's by those it reads. On a CPU and one
thread seconds are the processor's, as if nothing else ran. Not foreseen: an early stop, and how requests queue where answers
are generated.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import set_seed

from adapthub.adapters import errors
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import AdaptHubError, TrainingError
from adapthub.adapters.memory import free_memory
from adapthub.recipes import answered
from adapthub.recipes import run as runs
from adapthub.recipes.adaptation import Adaptation, adapt, precision
from adapthub.recipes.clock import Clock, wall_clock
from adapthub.recipes.economy import keep_few_primitives, padding_spared
from adapthub.recipes.eva import initialise
from adapthub.recipes.first_checks import check_run
from adapthub.recipes.job import Job, Split, prepare
from adapthub.recipes.length_groups import LengthGroups
from adapthub.recipes.loop import fit
from adapthub.recipes.outcome import Outcome, rehearse
from adapthub.recipes.parts import PASS_TOKENS, cuts_up, of_tokens
from adapthub.recipes.peaks import Peak, Step, free_for_us, largest_batch, left_of, more_rows
from adapthub.recipes.recipe import Augmenting, Comparing, OwnLoss, PreferringRecipe, Rows, lengths_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.int64]

_STEPS = 7
_EVALUATED_BATCHES = 6


@dataclass(frozen=True)
class Trial:
    """What a run will take: `memory` bytes of its process at most, `device_memory` of a GPU or None; `seconds` in all, of
    which `loading` go before the first step, `training` for steps and evaluations, `measuring` after the last; `step`
    seconds of one on average. `largest_batch`: rows of the longest kind that fit beside the most that was taken, all of
    them at most; None where the system does not tell what a step adds.
    """

    memory: int
    device_memory: int | None
    seconds: float
    loading: float
    training: float
    measuring: float
    step: float
    largest_batch: int | None


def try_out(device: str, **arguments: Any) -> Trial:
    """`arguments` as for `job.prepare`, `device` as for `load_base`, in a new process. Raises what `train` would raise by
    then."""
    try:
        given = pickle.dumps((device, arguments))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"the first steps cannot be tried, as their process cannot be given the data: {error}",
            hint="Give a file, or rows of plain texts and numbers.",
        ) from error
    ended = subprocess.run([sys.executable, "-m", __name__], input=given, capture_output=True, check=False)
    lines = ended.stdout.decode().splitlines()
    if ended.returncode or not lines:
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise TrainingError(
            f"the first steps cannot be tried: {''.join(last) or f'their process ended with {ended.returncode}'}",
            hint="Where memory ran out, lower batch_size or quantize the base.",
        )
    document = json.loads(lines[-1])
    if "error" in document:
        raise getattr(errors, document["error"])(document["message"], hint=document["hint"])
    return Trial(**document)


def main() -> None:
    """In the new process: arguments on stdin; the trial, or the error, as the last line on stdout."""
    keep_few_primitives()
    device, arguments = pickle.loads(sys.stdin.buffer.read())
    try:
        with redirect_stdout(sys.stderr):
            document = asdict(_Trying(device, arguments).trial())
    except AdaptHubError as error:
        document = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    print(json.dumps(document), flush=True)


class _Trying:
    """A job, loaded, and the clock and memory of this process."""

    def __init__(self, device: str, arguments: Mapping[str, Any]) -> None:
        free = free_memory(torch.device("cpu"))
        job = prepare(**arguments)
        self._base = load_base(job.base.ref, quantize=job.quantize, device=device)
        where = self._base.device
        self._free = free_for_us(where) if where.type == "cuda" else free
        job = job.computing_in(precision(job.settings.precision, where, self._base.dtype))
        self._job = replace(job, settings=replace(job.settings, patience=0))
        alone = where.type == "cpu" and torch.get_num_threads() == 1
        self._now = time.process_time if alone else wall_clock(where)
        self._peak = Peak(where)

    def trial(self) -> Trial:
        rehearse(self._job, self._base)
        set_seed(self._job.seed)
        adaptation = self._adapted()
        job = self._job
        if job.parent is not None:
            job.parent.take_over(adaptation, job.labels)
        elif job.adapter.get("init") == "eva":
            initialise(adaptation, job, self._base)
        with tempfile.TemporaryDirectory(prefix="adapthub-trial-") as folder:
            try:
                check_run(job, self._base, adaptation, Path(folder))
                loading = self._now()
                # Twice: what is made once, for the first step and evaluation, is neither a row's nor a batch's.
                halved = self._half()
                self._fit(adaptation, halved, Path(folder) / "warm")
                half = self._fit(adaptation, halved, Path(folder) / "half", weighs_evaluation=True)
                began, tried = self._now(), self._typical()
                clock = self._fit(adaptation, tried, Path(folder) / "run")
                loading += clock.begins[0] - began
                outcome = Outcome(tried, self._base, clock.run, None)
                saving = self._now()
                outcome.save(adaptation)
                saving = self._now() - saving
            finally:
                adaptation.release()
            verifying = self._now()
            outcome.verify()
            measuring = self._now()
            outcome.measure()
            verifying, measuring = measuring - verifying, self._now() - measuring
        self._peak.read()
        after = saving + verifying + last_measure(job, tried, clock.evaluation, measuring)
        steps, warm_up = self._stepping(tried, clock)
        training = steps + warm_up + self._evaluating(tried, clock)
        return Trial(
            memory=self._peak.host,
            device_memory=self._peak.device,
            seconds=loading + training + after,
            loading=loading,
            training=training,
            measuring=after,
            step=steps / job.steps,
            largest_batch=self._largest(halved, half, clock.added),
        )

    def _adapted(self) -> Adaptation:
        """The model, and from now on the job with the packing that all of its rows lead to, not those that are tried."""
        job = self._job
        adaptation = adapt(self._base, job.task, job.labels, job.method, job.adapter, job.ranks)
        packing, _ = padding_spared(job, self._base, adaptation.model)
        self._job = replace(job, settings=replace(job.settings, packing=packing))
        return adaptation

    def _fit(self, adaptation: Adaptation, job: Job, folder: Path, **weighs: bool) -> Clock:
        run = runs.start(job.configuration, {}, name="trial", path=folder)
        clock = Clock(run, self._now, self._peak, **weighs)
        fit(job, self._base, adaptation, run, console=None, callbacks=[clock])
        return clock

    @cached_property
    def _batches(self) -> list[Places]:
        """An epoch's, in their order; the first has the longest row."""
        settings, lengths = self._job.settings, self._lengths
        order = np.fromiter(
            LengthGroups(lengths, settings.batch_size, self._job.seed), np.int64, len(lengths)
        )
        return np.split(order, range(settings.batch_size, len(order), settings.batch_size))

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return lengths_of(self._job.taught)

    def _half(self) -> Job:
        """A step of half of the longest rows, as many as a loss needs, and an evaluation of a batch."""
        rows = sorted(self._batches[0], key=lambda at: -int(self._lengths[at]))
        half = np.array(rows[: max(self._fewest, len(rows) // 2)])
        settings = replace(
            self._job.settings, batch_size=len(half), max_steps=1, gradient_accumulation=1, eval_steps=1
        )
        splits = {"train": self._train(half)}
        if "validation" in self._job.splits:
            splits["validation"] = _evaluated(self._job, longest=settings.eval_batch_size, others=0)
        return replace(self._job, settings=settings, splits=splits)

    @property
    def _fewest(self) -> int:
        """Rows of which a batch's loss can be."""
        return 2 if isinstance(self._job.recipe, (Comparing, PreferringRecipe)) else 1

    def _typical(self) -> Job:
        """The batch with the longest row, and some that stand for all others; evaluated on a few batches."""
        at_once = min(self._job.settings.gradient_accumulation, len(self._batches))
        steps = min(self._job.steps, max(3, _STEPS // at_once))
        shorter = sorted(range(1, len(self._batches)), key=lambda at: int(self._cost[at, 1]))
        shares = (np.arange(steps * at_once - 1) + 0.5) / max(1, steps * at_once - 1)
        chosen = [0, *(shorter[int(share * len(shorter))] for share in shares if shorter)]
        rows = np.concatenate([self._batches[at] for at in chosen])
        splits = {"train": self._train(rows)}
        if "validation" in self._job.splits:
            at_a_time = self._job.settings.eval_batch_size
            others = (_EVALUATED_BATCHES - 1) * at_a_time
            splits["validation"] = _evaluated(self._job, longest=at_a_time, others=others)
        else:  # for the rows on which trained and served are compared
            splits["test"] = self._job.splits["train"].some(self._job.settings.batch_size)
        settings = replace(
            self._job.settings, max_steps=steps, eval_steps=steps, gradient_accumulation=at_once
        )
        return replace(self._job, settings=settings, splits=splits)

    def _train(self, rows: Places) -> Split:
        split = self._job.splits["train"]
        if isinstance(self._job.recipe, Augmenting):  # whose rows are all of one size
            return split
        return Split(split.dataset, replace(split.encoded, rows=Rows(self._job.taught, rows.tolist())))

    @cached_property
    def _cost(self) -> NDArray[np.float64]:
        return self._costs(self._lengths, self._batches)

    def _costs(self, lengths: NDArray[np.int64], batches: Sequence[Places]) -> NDArray[np.float64]:
        """[batches, 3]: one, the tokens that a batch computes, and the pairs of these that attend to each other."""
        costs = np.ones((len(batches), 3))
        for at, batch in enumerate(batches):
            some = lengths[batch]
            if self._job.settings.packing is not True:
                some = np.full_like(some, some.max())
            costs[at, 1:] = some.sum(), (some.astype(np.float64) ** 2).sum()
        return costs

    def _stepping(self, tried: Job, clock: Clock) -> tuple[float, float]:
        """Seconds of all steps of the run, and how much longer the first takes because it is the first."""
        from scipy.optimize import nnls

        at_once, size = tried.settings.gradient_accumulation, tried.settings.batch_size
        lengths = lengths_of(tried.splits["train"].encoded.rows)
        order = np.fromiter(LengthGroups(lengths, size, tried.seed), np.int64, len(lengths))
        batches = np.split(order, range(size, len(order), size))[: len(clock.seconds) * at_once]
        costs = self._costs(lengths, batches)
        costs = np.add.reduceat(costs, range(0, len(costs), at_once))
        if len(costs) == 1:  # all rows are a batch, and every step is of it
            costs = np.repeat(costs, len(clock.seconds), axis=0)
        seconds = np.array(clock.seconds[: len(costs)])
        later = slice(1, None) if len(seconds) > 1 else slice(None)
        scale = costs.max(axis=0)
        factors, _ = nnls(costs[later] / scale, seconds[later])
        every = self._cost @ (factors / scale)
        # A step ends where its epoch does, with fewer batches.
        epochs, more = divmod(self._job.steps, -(-len(every) // at_once))
        total = epochs * every.sum() + every[: more * at_once].sum()
        warm_up = seconds[0] - float(costs[0] @ (factors / scale))
        return float(total), max(0.0, warm_up)

    def _evaluating(self, tried: Job, clock: Clock) -> float:
        """Seconds of the run's evaluations, and of the checkpoint after each."""
        evaluations = self._job.settings.evaluations(self._job.rows)
        whole = self._job.looked_at
        if whole is None or clock.evaluation is None:
            return evaluations * clock.saving
        share = self._computed(whole) / self._computed(_looked_at(tried))
        return evaluations * (clock.evaluation * share + clock.saving)

    def _computed(self, split: Split) -> float:
        """Tokens that an evaluation of a split computes, of which few rows have more padding."""
        lengths, size = np.sort(lengths_of(split.encoded.rows))[::-1], self._job.settings.eval_batch_size
        batches = np.split(np.arange(len(lengths)), range(size, len(lengths), size))
        return float(self._costs(lengths, batches)[:, 1].sum())

    def _largest(self, halved: Job, half: Clock, added: int) -> int | None:
        """`added`: by the first step of whole batches."""
        if not self._peak.tells_steps:
            return None
        taken = self._peak.host if self._peak.device is None else self._peak.device
        left, whole = left_of(self._free, taken), len(self._batches[0])
        fewer = Step(halved.settings.batch_size, half.added)
        largest = largest_batch(
            fewer if fewer.rows < whole else Step(0, 0),
            Step(whole, added),
            left=left,
            part=self._part(),
            most=self._job.rows,
        )
        if half.evaluated is None:
            return largest
        # What is evaluated at once grows with a batch, up to a number, and is no part of what a step takes.
        settings, tried = self._job.settings, len(_looked_at(halved).encoded.rows)
        evaluation = Step(min(tried, halved.settings.eval_batch_size), half.evaluated)
        every = len(self._job.splits["validation"].encoded.rows)
        fit = min(every, settings.eval_batch_size) + more_rows(evaluation, left)
        if min(every, replace(settings, batch_size=largest).eval_batch_size) <= fit:
            return largest
        return max(1, fit // 2)

    def _part(self) -> int | None:
        """About how many rows like those of the first batch are computed at a time; None where a batch is not cut up."""
        some, recipe = self._batches[0], self._job.recipe
        if isinstance(recipe, PreferringRecipe) or not cuts_up(
            self._base.device, own_loss=isinstance(recipe, OwnLoss)
        ):
            return None
        if not of_tokens(recipe.collator(self._job.processor)([dict(self._job.taught[int(some[0])])])):
            return None
        return max(1, int(PASS_TOKENS / self._lengths[some].mean()))


def last_measure(job: Job, tried: Job, evaluation: float | None, seconds: float) -> float:
    """Seconds of a job's last measure, where that of `tried` took `seconds` and its evaluation `evaluation`: by the tokens
    that are read, and what goes beyond an evaluation by the texts that are written, where their number is set."""
    every, some = _measured(job), _measured(tried)
    share = sum(map(_tokens, every)) / max(1, sum(map(_tokens, some)))
    if not job.splits["train"].dataset.settings.get("answered"):
        return seconds * share
    reading = 0.0
    if evaluation is not None:
        reading = evaluation * sum(map(_tokens, some)) / max(1, _tokens(_looked_at(tried)))
    reading = min(seconds, reading)
    texts, tried_texts = (
        sum(len(answered.places(split.dataset)) for split in splits) for splits in (every, some)
    )
    return reading * share + (seconds - reading) * texts / max(1, tried_texts)


def _measured(job: Job) -> list[Split]:
    return [split for name, split in job.splits.items() if name != "train"]


def _looked_at(job: Job) -> Split:
    """What an evaluation of a job with a validation split reads."""
    split = job.looked_at
    assert split is not None
    return split


def _evaluated(job: Job, *, longest: int, others: int) -> Split:
    """Examples of the validation split: so many of the `longest`, of which batches that are evaluated consist first, and
    about as many `others` spread evenly."""
    split, count = job.splits["validation"], len(job.splits["validation"].dataset)
    lengths = lengths_of(split.encoded.rows)
    if count <= longest + others or len(lengths) != count:  # in windows, most of which are of one length
        return split.some(longest + others)
    places = {*(-lengths).argsort(kind="stable")[:longest].tolist()}
    places |= {at * count // others for at in range(others)}
    return Split(split.dataset.select(sorted(places)), split.encoded.select(sorted(places)))


def _tokens(split: Split) -> int:
    return int(lengths_of(split.encoded.rows).sum())


if __name__ == "__main__":
    main()
