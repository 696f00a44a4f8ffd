"""The checks before a first step that take a prepared run and its model: one call, for training and for trying out a plan.

Does not check data or settings (preflight's own, and the recipe's).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapthub.adapters.memory import memory_errors
from adapthub.recipes.adaptation import Adaptation, autocast
from adapthub.recipes.preflight import check_disk, check_head, check_reload
from adapthub.recipes.recipe import lengths_of

if TYPE_CHECKING:
    from adapthub.adapters.base import Base
    from adapthub.recipes.job import Job

_CHECKPOINTS = 3  # the best, the last, and the one being written
_ROWS = 4


def check_run(job: Job, base: Base, adaptation: Adaptation, folder: Path) -> None:
    """Disk under `folder`; head and reload on the shortest training rows. Raises as these checks do, and OutOfMemory."""
    rows = job.taught
    shortest = lengths_of(rows).argsort(kind="stable")[:_ROWS]
    batch = job.recipe.collator(job.processor)([dict(rows[int(at)]) for at in shortest])
    check_disk(folder, adaptation.bytes, _CHECKPOINTS)
    with memory_errors("checking the run", job.smaller), autocast(base):
        check_head(adaptation.model, batch, job.labels)
        check_reload(adaptation.model, batch)
