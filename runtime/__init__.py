"""How adapters run together over one base model.

Importing this package does not import torch: names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapthub.runtime.predict import Pair, Passage
    from adapthub.runtime.predictions import AnswerSpan, Entity, Prediction
    from adapthub.runtime.runtime import Runtime
    from adapthub.runtime.transcriber import Transcription

__all__ = ["AnswerSpan", "Entity", "Pair", "Passage", "Prediction", "Runtime", "Transcription"]

_HOMES = {
    "AnswerSpan": "adapthub.runtime.predictions",
    "Entity": "adapthub.runtime.predictions",
    "Pair": "adapthub.runtime.predict",
    "Passage": "adapthub.runtime.predict",
    "Prediction": "adapthub.runtime.predictions",
    "Runtime": "adapthub.runtime.runtime",
    "Transcription": "adapthub.runtime.transcriber",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
