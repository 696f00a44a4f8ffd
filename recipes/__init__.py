"""How adapters are made: `train`, `evaluate`, `plan`. Imports nothing heavy before one of them is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapthub.recipes.evaluation import Evaluation as Evaluation
    from adapthub.recipes.evaluation import evaluate as evaluate
    from adapthub.recipes.planning import Plan as Plan
    from adapthub.recipes.planning import plan as plan
    from adapthub.recipes.training import TrainingResult as TrainingResult
    from adapthub.recipes.training import train as train

_MODULES = {
    "Evaluation": "evaluation",
    "Plan": "planning",
    "TrainingResult": "training",
    "evaluate": "evaluation",
    "plan": "planning",
    "train": "training",
}
__all__ = ["Evaluation", "Plan", "TrainingResult", "evaluate", "plan", "train"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"adapthub.recipes.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
