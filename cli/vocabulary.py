"""A library error in the words of the command line: `Set label_column.` becomes `Set --label-column.`

The library names Python's arguments; here each becomes the option that gives it, or --set. What stands in quotes, in a path
or as part of a longer name is data and stays as it is. Knows names only, not what they mean.
"""

from __future__ import annotations

import re

from adapthub.adapters.errors import AdaptHubError, ArtifactError

# Arguments with an option of their own; the others are given by --set.
OPTIONS = {
    "base": "--base",
    "validation": "--validation",
    "test": "--test",
    "quantize": "--quantize",
    "device": "--device",
    "method": "--method",
    "peft_config": "--method-config",
    "rank": "--rank",
    "alpha": "--alpha",
    "epochs": "--epochs",
    "max_steps": "--max-steps",
    "batch_size": "--batch-size",
    "max_length": "--max-length",
    "learning_rate": "--learning-rate",
    "head_learning_rate": "--head-learning-rate",
    "text_column": "--text-column",
    "label_column": "--label-column",
    "encoding": "--encoding",
    "seed": "--seed",
    "name": "--name",
    "output": "--output",
    "alias": "--alias",
}
SET = (
    "lora_plus_ratio",
    "warmup",
    "weight_decay",
    "eval_steps",
    "eval_rows",
    "patience",
    "precision",
    "optimizer",
    "init",
    "prompt_length",
    "trainable_tokens",
    "dropout",
    "target_modules",
    "prefix_length",
    "scheme",
    "token_column",
    "source_column",
    "target_column",
    "prompt",
    "delimiter",
    "language",
    "audio_column",
    "max_seconds",
    "answer_column",
    "answered",
    "beta",
    "chosen_column",
    "context_column",
    "crop",
    "flip",
    "gradient_accumulation",
    "gradient_checkpointing",
    "group_column",
    "image_column",
    "label_columns",
    "label_separator",
    "label_smoothing",
    "messages_column",
    "negative_column",
    "objective",
    "packing",
    "passage_column",
    "passage_prefix",
    "pooling",
    "prompt_column",
    "query_column",
    "query_prefix",
    "question_column",
    "rejected_column",
    "system",
    "temperature",
    "template",
    "turns",
)
_PHRASES = {
    "validation=False, --no-validation": "--no-validation",
    "validation=False": "--no-validation",
    "quantize=None": "--quantize none",
    "Use None.": "Use --quantize none.",
}
_NAMES = (*OPTIONS, *SET)
# Plain words, such as rank and warmup, are names only where a value follows, or in a hint if only --set gives them.
_UNDERSCORED = tuple(name for name in _NAMES if "_" in name)
_BEFORE = r"(?<![\w'\"./\\-])(?P<verb>[Ss]et )?"
_WITH_VALUE = re.compile(rf"{_BEFORE}(?P<name>{'|'.join(_NAMES)})=(?P<value>'[^']*'|\"[^\"]*\"|[\w./+-]*\w)")
_IN_MESSAGE, _IN_HINT = (
    re.compile(rf"{_BEFORE}(?P<name>{'|'.join(names)})(?![\w'\"=/\\-]|\.\w)")
    for names in (_UNDERSCORED, {*_UNDERSCORED, *SET})
)


def in_options(error: AdaptHubError) -> str:
    """The error's one line, arguments as options. What an adapter's own files say (ArtifactError) stays as it is."""
    if isinstance(error, ArtifactError):
        return str(error)
    hint = None if error.hint is None else _translate(error.hint, _IN_HINT)
    return str(AdaptHubError(_translate(error.message, _IN_MESSAGE), hint=hint))


def _translate(text: str, alone: re.Pattern[str]) -> str:
    for phrase, words in _PHRASES.items():
        text = text.replace(phrase, words)
    return _WITH_VALUE.sub(_option, alone.sub(_option, text))


def _option(match: re.Match[str]) -> str:
    found = match.groupdict()
    name, verb, value = found["name"], found["verb"] or "", found.get("value", "").strip("'\"")
    if name in OPTIONS:
        return f"{verb}{OPTIONS[name]} {value}".rstrip()
    verb = {"Set ": "Give ", "set ": "give "}.get(verb, "")
    return f"{verb}--set {name}={value}".removesuffix("=")
