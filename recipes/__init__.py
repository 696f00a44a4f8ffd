"""How adapters are made: `train`, `evaluate`, `plan`, `compare`, `certify`. Imports nothing heavy before one is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapthub.recipes.certification import Certification as Certification
    from adapthub.recipes.certification import certify as certify
    from adapthub.recipes.certification import write_certified as write_certified
    from adapthub.recipes.comparison import Comparison as Comparison
    from adapthub.recipes.comparison import compare as compare
    from adapthub.recipes.evaluation import Evaluation as Evaluation
    from adapthub.recipes.evaluation import evaluate as evaluate
    from adapthub.recipes.planning import Plan as Plan
    from adapthub.recipes.planning import plan as plan
    from adapthub.recipes.repeating import repeated as repeated
    from adapthub.recipes.training import TrainingResult as TrainingResult
    from adapthub.recipes.training import train as train

_MODULES = {
    "Certification": "certification",
    "Comparison": "comparison",
    "Evaluation": "evaluation",
    "Plan": "planning",
    "TrainingResult": "training",
    "certify": "certification",
    "compare": "comparison",
    "evaluate": "evaluation",
    "plan": "planning",
    "repeated": "repeating",
    "train": "training",
    "write_certified": "certification",
}
__all__ = [
    "Certification",
    "Comparison",
    "Evaluation",
    "Plan",
    "TrainingResult",
    "certify",
    "compare",
    "evaluate",
    "plan",
    "repeated",
    "train",
    "write_certified",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"adapthub.recipes.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
