"""Where a run is told of besides its own folder: Weights & Biases, trackio, by transformers' own callbacks.

A run's folder has TensorBoard's log and every metric in any case. Each tracker reads its own environment (WANDB_PROJECT,
WANDB_MODE=offline, TRACKIO_SPACE_ID, ...). Does not import a tracker that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from adapthub.adapters.errors import InvalidSettings, MissingDependency
from adapthub.adapters.suggest import did_you_mean

if TYPE_CHECKING:
    from transformers import TrainerCallback

TRACKERS = ("trackio", "wandb")


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
