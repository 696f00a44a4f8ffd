"""A training job before its first step: data read and encoded, settings resolved, everything checked that
can be.

Training, the dry run and the plan all start here, so that what one shows is what another does. Loads the
base's configuration and tokenizer, never its weights; writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from adapthub.adapters.base import ResolvedBase, resolve_base
from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.methods import SERVED, find_method, method_settings
from adapthub.adapters.pooling import MEAN, POOLINGS, leaves_prompts_out, pooling_of
from adapthub.adapters.samples import fetch
from adapthub.adapters.suggest import did_you_mean
from adapthub.adapters.tasks import TEXT_GENERATION, Task
from adapthub.recipes import answered as written
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.default_base import default_base
from adapthub.recipes.positions import longest_row
from adapthub.recipes.preflight import check_supervision, never_written
from adapthub.recipes.prepared import prepare_rows, prepare_splits
from adapthub.recipes.processors import load_processor
from adapthub.recipes.ranks import follows_data, rank_by_data
from adapthub.recipes.recipe import (
    Comparing,
    EmbeddingRecipe,
    Encoded,
    EncodingAndDecoding,
    GeneratingRecipe,
    Recipe,
    Row,
)
from adapthub.recipes.settings import (
    LEAST_EVALUATED,
    LORA_FA,
    MOST_EVALUATED,
    OTHER_NAMES,
    SETTINGS,
    Settings,
)
from adapthub.recipes.taught import taught
from adapthub.recipes.widths import fitted

if TYPE_CHECKING:
    from adapthub.recipes.warm_start import Parent

DEFAULT_METHOD = "lora"


@dataclass(frozen=True)
class Split:
    """One split of the data, read and encoded."""

    dataset: Dataset
    encoded: Encoded

    def some(self, rows: int) -> Split:
        """At most `rows` examples, spread evenly over the split."""
        if len(self.dataset) <= rows:
            return self
        chosen = [at * len(self.dataset) // rows for at in range(rows)]
        return Split(self.dataset.select(chosen), self.encoded.select(chosen))


@dataclass(frozen=True)
class Job:
    """What will be trained, on what, from what. `splits` has "train", and "validation" and "test" where
    there are such.

    `processor` reads the recipe's inputs: a tokenizer, or one for pictures or sound. `adapter` are all of the method's
    settings; `options` how the data was read; `encoding` what evaluation and serving must encode with; `parent` the adapter
    that training goes on from, if any; `notes` what is worth knowing of the data: rows set aside, leaks, repeats, cuts.
    """

    recipe: Recipe
    method: str
    base: ResolvedBase
    quantize: str | None
    processor: Any
    splits: Mapping[str, Split]
    labels: tuple[str, ...]
    settings: Settings
    adapter: Mapping[str, Any]
    options: Mapping[str, Any]
    encoding: Mapping[str, Any]
    parent: Parent | None
    seed: int
    notes: tuple[str, ...]

    @property
    def task(self) -> Task:
        return cast(Task, self.recipe.task)

    @cached_property
    def taught(self) -> Sequence[Row]:
        """What training sees in one epoch: a row for each example, or more where an example is read in windows, and none for
        one that nothing can be learnt of."""
        return taught(self.splits["train"].encoded)

    @property
    def rows(self) -> int:
        """How many those are."""
        return len(self.taught)

    @property
    def looked_at(self) -> Split | None:
        """What of the validation split is looked at during training."""
        split, rows = self.splits.get("validation"), self.settings.eval_rows
        return split if split is None or rows is None else split.some(rows)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, unless it stops early."""
        return self.settings.steps(self.rows)

    @property
    def seen(self) -> int:
        """Supervised targets of the rows that the run reaches at least once."""
        share = min(1.0, self.steps / self.settings.steps_per_epoch(self.rows))
        return int(self.splits["train"].encoded.supervised * share)

    @property
    def ranks(self) -> Mapping[str, Any] | None:
        """Which layers are trained with which ranks, where EVA chose them for the parent."""
        return None if self.parent is None else self.parent.ranks

    @property
    def smaller(self) -> str:
        """What to change where memory runs out."""
        batch_size, max_length = self.settings.batch_size, self.settings.max_length
        length = "" if max_length is None else f" or max_length ({max_length})"
        return f"Lower batch_size (now {batch_size}){length}, or quantize the base."

    def computing_in(self, precision: str) -> Job:
        """The same job, once the device and its number format are known."""
        return replace(self, settings=replace(self.settings, precision=precision))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Every setting that this method has by name, as the manifest records it."""
        run = {name: vars(self.settings)[name] for name in _run_settings(self.recipe, self.method)}
        return {**run, **self.adapter, **self.encoding}

    @property
    def configuration(self) -> dict[str, Any]:
        """All that decides what the adapter becomes; a run is resumed only with an equal one."""
        return {
            "task": self.recipe.name,
            "method": self.method,
            "base": {"id": self.base.ref, "fingerprint": self.base.fingerprint.digest},
            "quantize": self.quantize,
            "labels": list(self.labels),
            "settings": self.hyperparameters,
            "seed": self.seed,
            **({"start": self.parent.artifact.digest} if self.parent else {}),
            "data": {
                name: {
                    "fingerprint": split.dataset.fingerprint,
                    "rows": len(split.dataset),
                    "source": split.dataset.source,
                }
                for name, split in self.splits.items()
            },
        }


def prepare(
    task: str,
    data: str | Path | Any,
    *,
    base: str | ResolvedBase | None,
    quantize: str | None,
    method: str | None,
    validation: str | Path | Any | Literal[False] | None,
    test: str | Path | Any | None,
    seed: int,
    given: Mapping[str, Any],
    parent: Parent | None = None,
    report: Callable[[str], None] | None = None,
) -> Job:
    """Read, check and encode. `data`, `validation` and `test` as in `read_splits`; `given` mixes run
    settings, the method's settings and the recipe's reading options. `method` None: the parent's, else lora. `base` None:
    that of default_base, which is noted; `report` is told if it is fetched.

    Raises InvalidSettings for an option that nothing takes or that cannot work, InvalidData naming file and
    line, BaseMismatch for another base than the parent's, and what resolving the base raises.
    """
    recipe = find_recipe(task)
    if parent is not None:
        given = parent.settings(cast(Task, recipe.task), method, given)
        given = parent.asked_as(recipe.name, recipe.options, given)
        method = parent.manifest.method
    method = method or DEFAULT_METHOD
    settings, adapter, options = _sort_out(recipe, method, given)
    datasets, labels, notes = prepare_splits(recipe, data, validation=validation, test=test, options=options)
    if isinstance(recipe, Comparing):
        recipe.check_batch(settings.batch_size, datasets["train"])
    if base is None:
        name, chosen = default_base(recipe.task, datasets["train"])
        fetch(name, report)
        base, notes = f"package:{name}", (chosen, *notes)
    resolved = resolve_base(base) if isinstance(base, str) else base
    if parent is not None:
        parent.check_base(resolved)
    processor = load_processor(recipe, resolved)
    adapter = _by_ids(adapter, processor)
    longest = longest_row(settings.max_length, given, adapter, resolved)
    encoding = recipe.resolve(processor, datasets["train"], max_length=longest or 0)
    encoding |= _decoding(recipe, resolved)
    pooled, how = _pooling(recipe, resolved, encoding)
    encoding |= pooled
    settings = fitted(settings, recipe.defaults(find_method(method).learns_as), given, resolved.config)
    settings = replace(settings, max_length=encoding.get("max_length"))
    splits = {
        name: Split(dataset, prepare_rows(recipe, processor, resolved, dataset, labels, encoding))
        for name, dataset in datasets.items()
    }
    measured = {name: written.note(dataset) for name, dataset in datasets.items() if name != "train"}
    some = (f"{name}: {note}" for name, note in measured.items() if note)
    cut = check_supervision({name: split.encoded for name, split in splits.items()})
    cut += never_written(recipe, processor, resolved, datasets, encoding)
    job = Job(
        recipe=recipe,
        method=method,
        base=resolved,
        quantize=quantize,
        processor=processor,
        splits=splits,
        labels=labels,
        settings=settings,
        adapter=adapter,
        options=options,
        encoding=encoding,
        parent=parent,
        seed=seed,
        notes=(*notes, *cut, *some, *how, *_served(adapter), *(parent.notes(labels) if parent else ())),
    )
    if follows_data(adapter, given, method, recipe):
        adapter = {**adapter, "rank": rank_by_data(adapter["rank"], job.seen, resolved.config)}
    settings = settings.of_length(job.rows, given, recipe.defaults(find_method(method).learns_as))
    return _evaluating_some(replace(job, adapter=adapter, settings=settings))


def check_given(job: Job, method: str, given: Mapping[str, Any]) -> None:
    """Whether `job` could be prepared with other settings, as far as its data do not decide. Raises InvalidSettings."""
    settings, adapter, _ = _sort_out(job.recipe, method, given)
    if isinstance(job.recipe, Comparing):
        job.recipe.check_batch(settings.batch_size, job.splits["train"].dataset)
    longest_row(settings.max_length, given, _by_ids(adapter, job.processor), job.base)


def _evaluating_some(job: Job) -> Job:
    """The same job with `eval_rows` chosen, and a note where that is not the whole validation split.

    A loss differs little from sample to sample, and is looked at on what it may cost; a metric wants as many rows as can be.
    """
    if job.settings.eval_rows is not None:
        return job
    by_cost = isinstance(job.recipe, GeneratingRecipe)
    most = job.settings.affordable_rows(job.rows) if by_cost else MOST_EVALUATED
    notes = job.notes
    if "validation" in job.splits and most < (all_rows := len(job.splits["validation"].dataset)):
        every = job.settings.steps_between_evaluations(job.rows)
        why = ""
        if by_cost and most < MOST_EVALUATED:
            why = ", which takes about a quarter of the time of these steps"
            why = why if most > LEAST_EVALUATED else "; fewer would take less time, and tell too little"
        notes += (
            f"validation: every {every} steps {most} of {all_rows} rows are looked at, the same each time{why}"
            " (eval_rows); at the end all are",
        )
    return replace(job, settings=replace(job.settings, eval_rows=most), notes=notes)


def _decoding(recipe: Recipe, base: ResolvedBase) -> dict[str, Any]:
    """What more an encoder-decoder's rows need. Raises InvalidSettings for a recipe that learns on causal bases alone."""
    config = base.config
    if recipe.task != TEXT_GENERATION or not config.is_encoder_decoder:
        return {}
    if not isinstance(recipe, EncodingAndDecoding):
        raise InvalidSettings(
            f"{recipe.name} learns on bases that go on with a text; {base.ref} has an encoder and a decoder",
            hint="Choose a causal base, such as package:smollm2-135m.",
        )
    start = getattr(config, "decoder_start_token_id", None)
    return recipe.decoding_from(config.pad_token_id if start is None else start)


def _pooling(
    recipe: Recipe, base: ResolvedBase, encoding: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Where a recipe embeds and nobody said how hidden states become a vector: as the base's files do, and a note. Raises
    InvalidSettings for a way that is not computed here; what a text begins with is always pooled."""
    if not isinstance(recipe, EmbeddingRecipe) or "pooling" in encoding:
        return {}, ()
    found = pooling_of(base.path)
    if found is not None and found not in POOLINGS:
        raise InvalidSettings(
            f"{base.ref} pools hidden states by {found}, which is not computed here",
            hint=f"Set pooling={MEAN}, or another of {', '.join(POOLINGS)}: the adapter learns to be pooled so.",
        )
    prefixes = [name for name in ("query_prefix", "passage_prefix") if encoding.get(name)]
    if prefixes and leaves_prompts_out(base.path):
        raise InvalidSettings(
            f"{base.ref} leaves prompts out of what it pools (include_prompt), which is not computed here, and"
            f" {prefixes[0]} is given",
            hint=f"Set pooling={found or MEAN}: the adapter learns to be pooled with it.",
        )
    why = "because its files say nothing else" if found is None else "as its sentence-transformers files say"
    pooling = found or MEAN
    return {"pooling": pooling}, (f"pooling: {pooling} of {base.ref}'s hidden states, {why}",)


def _by_ids(adapter: dict[str, Any], processor: Any) -> dict[str, Any]:
    """The method's settings with trained tokens by their ids. Raises InvalidSettings for one that the tokenizer lacks."""
    tokens = adapter.get("trainable_tokens")
    if not tokens:
        return adapter
    if not hasattr(processor, "get_vocab"):
        raise InvalidSettings("trainable_tokens: this task's inputs have no tokens", hint="Leave it out.")
    vocabulary = processor.get_vocab()
    known = set(vocabulary.values())
    ids = [token if isinstance(token, int) else vocabulary.get(token) for token in tokens]
    if lost := [token for token, at in zip(tokens, ids, strict=True) if at not in known]:
        raise InvalidSettings(
            f"trainable_tokens: the base's tokenizer has no token {lost[0]!r}",
            hint="Name tokens of its vocabulary, or their ids.",
        )
    return {**adapter, "trainable_tokens": ids}


def _served(adapter: Mapping[str, Any]) -> tuple[str, ...]:
    """What is worth saying of a method that a configuration gave."""
    if "peft_config" not in adapter:
        return ()
    kind, all_kinds = adapter["peft_config"]["peft_type"], ", ".join(SERVED)
    return (
        f"method: {kind} by its configuration. The runtime serves {all_kinds} mixed in one pass; before the first step it is"
        " tried whether it computes all of this one",
    )


def _sort_out(
    recipe: Recipe, method: str, given: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any], dict[str, Any]]:
    """Run settings, method settings and reading options, each to its own."""
    of_method = find_method(method).defaults(cast(Task, recipe.task))
    of_run = _run_settings(recipe, method)
    run, adapter, options = {}, {}, {}
    for name, value in given.items():
        if name in of_run:
            run[name] = value
        elif name in of_method:
            adapter[name] = value
        elif name in recipe.options:
            options[name] = value
        else:
            known = (*of_run, *of_method, *recipe.options)
            near = did_you_mean(OTHER_NAMES.get(name, name), known)
            raise InvalidSettings(
                f"{name!r} is no setting of {recipe.name} with {method}",
                hint=near or f"There is: {', '.join(sorted(known))}.",
            )
    settings = Settings.resolve(run, recipe.defaults(find_method(method).learns_as))
    if settings.optimizer == LORA_FA and method not in ("lora", "rslora"):
        raise InvalidSettings(
            f"optimizer={LORA_FA!r} trains LoRA's B alone, and {method} has other things to train",
            hint="Use method lora or rslora, or another optimizer.",
        )
    options = {name: value for name, value in options.items() if value is not None}
    return settings, method_settings(method, cast(Task, recipe.task), **adapter), options


def _run_settings(recipe: Recipe, method: str) -> tuple[str, ...]:
    """The run settings of a recipe with a method: not all have a head, or tokens; only LoRA's family has an A and a B."""
    defaults = recipe.defaults(find_method(method).learns_as)
    absent = {name for name in ("head_learning_rate", "max_length") if getattr(defaults, name) is None}
    if "rank" not in find_method(method).defaults(cast(Task, recipe.task)):
        absent.add("lora_plus_ratio")
    return tuple(name for name in SETTINGS if name not in absent)
