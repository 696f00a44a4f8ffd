"""Which base a run is trained over where none is named: for each kind of task the one that installs from a package registry.

By task alone: which of a hub's models serves the data best, a run says and no rule. Loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from adapthub.adapters.tasks import Task

_BASES: Mapping[Task, str] = {
    "token-classification": "minilm",
    "text-classification": "minilm",
    "question-answering": "minilm",
    "text-generation": "smollm2-135m",
    "feature-extraction": "e5-small",
    "image-classification": "efficientnet-lite0",
    "automatic-speech-recognition": "whisper-base",
}


def default_base(task: str) -> str:
    """The base for a recipe's `task`: the name of a sample."""
    return _BASES[cast(Task, task)]
