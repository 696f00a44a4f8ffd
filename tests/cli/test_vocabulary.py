"""The library's names in the command line's words."""

from __future__ import annotations

from inspect import signature

import click
import pytest

from adapthub.adapters.errors import InvalidSettings, TensorMismatch
from adapthub.adapters.methods import METHODS
from adapthub.cli.set_option import TEXTS, setting
from adapthub.cli.train import train
from adapthub.cli.vocabulary import OPTIONS, SET, in_options
from adapthub.recipes.catalog import RECIPES
from adapthub.recipes.settings import OTHER_NAMES, SETTINGS


def settings() -> set[str]:
    """Every setting that anything takes."""
    of_methods = {
        name for method in METHODS.values() for name in (*method.classification, *method.generation)
    }
    return {*SETTINGS, *of_methods, *(name for recipe in RECIPES.values() for name in recipe.options)}


def test_every_setting_has_a_word_here() -> None:
    assert settings() <= {*OPTIONS, *SET}
    assert set(SET) <= settings()


def test_what_recipes_take_as_text_stays_one() -> None:
    read = [
        (name, parameter.annotation.removesuffix(" | None"))
        for recipe in RECIPES.values()
        for name, parameter in signature(type(recipe).read).parameters.items()
        if name in recipe.options
    ]
    texts = {name for name, kind in read if kind == "str" and not name.endswith("_column")}
    assert texts == set(TEXTS)
    assert {kind for name, kind in read if name.endswith("_column")} == {"str", "str | int"}
    assert setting("system=42") == ("system", "42")
    assert setting("text-column=1e3") == ("text_column", "1e3")
    assert setting("label_columns=1e3,007") == ("label_columns", ["1e3", "007"])
    assert setting("label_columns=2020") == ("label_columns", "2020")
    assert setting("trainable_tokens=5,6") == ("trainable_tokens", [5, 6])
    assert setting("query_prefix=true") == ("query_prefix", "true")
    assert setting('prompt="{source}\\n"') == ("prompt", "{source}\n")
    assert setting("system=null") == ("system", None)
    assert setting("max_length=42") == ("max_length", 42)


def test_the_words_are_options_that_train_has() -> None:
    declared = {
        option: parameter.name
        for parameter in train.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    assert {option: name for name, option in OPTIONS.items()}.items() <= declared.items()
    assert not set(SET) & set(declared.values())


def test_names_from_elsewhere_are_not_ours_and_mean_ours() -> None:
    assert not set(OTHER_NAMES) & settings()
    assert set(OTHER_NAMES.values()) <= settings()


@pytest.mark.parametrize(
    ("message", "hint", "line"),
    [
        ("a.csv: no label column", "Set label_column.", "a.csv: no label column. Set --label-column."),
        (
            "out of memory",
            "Lower batch_size (now 8) or max_length (64), or quantize the base.",
            "out of memory. Lower --batch-size (now 8) or --max-length (64), or quantize the base.",
        ),
        (
            "max_length=48 and prefix_length=20 exceed a base's 64 positions",
            "Set max_length to at most 44, or a shorter prefix_length.",
            "--max-length 48 and --set prefix_length=20 exceed a base's 64 positions."
            " Set --max-length to at most 44, or a shorter --set prefix_length.",
        ),
        ("x", "Lower learning_rate or raise warmup.", "x. Lower --learning-rate or raise --set warmup."),
        ("x", "set scheme=iob1; otherwise not.", "x. give --set scheme=iob1; otherwise not."),
        (
            "x",
            "Convert it (iconv -t UTF-8 a) or set encoding=gb18030.",
            "x. Convert it (iconv -t UTF-8 a) or set --encoding gb18030.",
        ),
        ("quantize='nf4' cannot apply", "Use None.", "--quantize nf4 cannot apply. Use --quantize none."),
        ("x", "Give name='acme/ner'.", "x. Give --name acme/ner."),
        ("x", "Train without (validation=False, --no-validation).", "x. Train without (--no-validation)."),
    ],
)
def test_arguments_become_options(message: str, hint: str, line: str) -> None:
    assert in_options(InvalidSettings(message, hint=hint)) == line


@pytest.mark.parametrize(
    "words",
    [
        "'max_length' is no setting of ner",
        "runs/max_length/run.json and max_length.csv",
        "settings.max_steps was 2, is now 3",
        "eval_max_length and max_lengths",
        "rank 3, a name, the base, a test and its label; the rank is low; warmup is a share",
        "a column 'rank=3' and \"seed=4\"",
    ],
)
def test_data_and_plain_words_stay_as_they_are(words: str) -> None:
    assert in_options(InvalidSettings(words)) == words


def test_what_a_file_says_stays_as_it_is() -> None:
    words = "adapter_config.json has no target_modules"
    assert in_options(TensorMismatch(words, hint="Set max_length.")) == f"{words}. Set max_length."
