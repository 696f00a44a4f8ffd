"""The tasks that adapters are made for, and their names in PEFT's configurations.

Does not hold what a task needs for training (recipes do) or how its head computes (heads does).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Task = Literal[
    "token-classification",
    "text-classification",
    "question-answering",
    "text-generation",
    "feature-extraction",
    "image-classification",
    "automatic-speech-recognition",
]

PEFT_TASK_TYPES: Mapping[Task, str | None] = {
    "token-classification": "TOKEN_CLS",
    "text-classification": "SEQ_CLS",
    "question-answering": "QUESTION_ANS",
    "text-generation": "CAUSAL_LM",
    "feature-extraction": "FEATURE_EXTRACTION",
    "image-classification": None,
    "automatic-speech-recognition": None,
}
"""PEFT's `task_type` of each task; None where PEFT has none and its plain PeftModel is used."""


TEXT_GENERATION: Task = "text-generation"
SPEECH: Task = "automatic-speech-recognition"
IMAGE_CLASSIFICATION: Task = "image-classification"


def peft_task_type(task: Task, *, encoder_decoder: bool) -> str | None:
    """What PEFT calls `task` on a base of one kind or the other."""
    if task == TEXT_GENERATION and encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return PEFT_TASK_TYPES[task]


def task_of(peft_task_type: object) -> Task | None:
    """The task that a PEFT `task_type` names, or None where it says nothing that we know."""
    for task, name in PEFT_TASK_TYPES.items():
        if name is not None and name == peft_task_type:
            return task
    return "text-generation" if peft_task_type == "SEQ_2_SEQ_LM" else None
