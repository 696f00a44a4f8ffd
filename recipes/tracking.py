"""Where a run is told of besides its own folder: Weights & Biases, trackio, by transformers' own callbacks while it trains;
and what it came to in the end, which TensorBoard's log hears too.

A run's folder has TensorBoard's log and every metric in any case. Each tracker reads its own environment (WANDB_PROJECT,
WANDB_MODE=offline, TRACKIO_SPACE_ID, ...). Does not import a tracker that nobody asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from adapthub.adapters.errors import InvalidSettings, MissingDependency
from adapthub.adapters.suggest import did_you_mean

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from adapthub.recipes.metrics import Estimate
    from adapthub.recipes.run import Run

TRACKERS = ("trackio", "wandb")
_PROJECT = "huggingface"  # as transformers' callbacks call theirs where nobody says otherwise
_STEP = "train/global_step"  # likewise


def check_trackers(names: Sequence[str]) -> None:
    """Raises InvalidSettings for a name that is none, MissingDependency for one that is not installed."""
    for name in names:
        if name not in TRACKERS:
            near = did_you_mean(name, TRACKERS) or f"There is: {', '.join(TRACKERS)}."
            raise InvalidSettings(f"there is no tracker {name!r}", hint=near)
        if find_spec(name) is None:
            raise MissingDependency(f"{name} is not installed", hint=f"Run: pip install {name}")


@contextmanager
def tracked(names: Sequence[str]) -> Iterator[list[TrainerCallback]]:
    """Within: callbacks that tell the trackers `names`, which are there, of a run. What they begin ends with it, so that the
    next run of this process is another one there too; what the caller began goes on."""
    from transformers.integrations.integration_utils import TrackioCallback, WandbCallback

    kinds = {"trackio": TrackioCallback, "wandb": WandbCallback}
    callbacks = [cast(Any, kinds[name])() for name in names]
    if "wandb" not in names:  # trackio's ends by itself
        yield callbacks
        return
    wandb: Any = import_module("wandb")
    is_ours, failed = wandb.run is None, True
    try:
        yield callbacks
        failed = False
    finally:
        if is_ours and wandb.run is not None:
            wandb.finish(exit_code=int(failed))


def tell_measured(
    names: Sequence[str],
    run: Run,
    metrics: Mapping[str, Mapping[str, Estimate]],
    tell: Callable[[str], None],
) -> None:
    """TensorBoard's log of `run` and the trackers `names` hear what it came to by split and name, as "test/f1", at its last
    step. Within `tracked`, so that a tracker's run is still the same; where nothing was trained any more, it has a new one.

    What goes wrong there is said by `tell`: the adapter is whole by then, and may still be pushed.
    """
    from torch.utils.tensorboard import SummaryWriter

    found = {
        f"{split}/{name}": one.value
        for split, estimates in metrics.items()
        for name, one in estimates.items()
    }
    if not found:
        return
    step = max((int(entry["step"]) for entry in run.history), default=0)
    try:
        with SummaryWriter(str(run.tensorboard)) as log:
            for name, value in found.items():
                log.add_scalar(name, value, step)
        _tell_trackers(names, run, {**found, _STEP: step})
    except Exception as error:  # of a tracker's own kind
        tell(f"not every tracker heard what the adapter came to: {type(error).__name__}: {error}")


def _tell_trackers(names: Sequence[str], run: Run, found: Mapping[str, float]) -> None:
    if "wandb" in names:
        wandb: Any = import_module("wandb")
        if wandb.run is None:
            wandb.init(project=os.getenv("WANDB_PROJECT", _PROJECT), name=run.path.name)
        wandb.run.log(dict(found))
    if "trackio" in names:  # its run ended with training
        trackio: Any = import_module("trackio")
        trackio.init(project=_PROJECT, name=run.path.name, resume="allow", embed=False)
        trackio.log(dict(found))
        trackio.finish()
