"""What is no text: refused by the row it stands in, whatever the task, and never by a bare Python error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime import Runtime
from tests.adapters.peft_oracle import lora_config, save_adapter

TOKENS, TEXT = "token-classification", "text-classification"


@pytest.fixture(scope="module")
def runtime(tiny_base: Path) -> Runtime:
    return Runtime(str(tiny_base), device="cpu")


@pytest.fixture(scope="module")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, str | None]:
    """An adapter for each task, and the base alone."""
    folder = tmp_path_factory.mktemp("adapters")
    saved: dict[str | None, str | None] = {
        task: str(save_adapter(tiny_base, folder / task, task, lora_config(task), labels=3))
        for task in (TOKENS, TEXT)
    }
    return {**saved, None: None}


@pytest.mark.parametrize("task", [TOKENS, TEXT, None])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (3, "text 1 is an int, not str"),
        (None, "text 1 is None, not str"),
        (b"ada", "text 1 is bytes, not str"),
        ({"text": "ada"}, "text 1 is a dict, not str"),
        ("", "text 1 "),
        (" \n", "text 1 "),
        ([], "text 1 "),
        (["ada", 3], "text 1: word 1 is an int, not str"),
        (["ada", ""], "text 1: word 1 is empty"),
        ("ada \ud83d", "text 1 is not valid Unicode: character 4"),
        (["ada", "\udcff"], "text 1: word 1 is not valid Unicode"),
    ],
    ids=repr,
)
def test_a_row_that_is_no_text_is_named(
    runtime: Runtime, adapters: dict[str | None, str | None], task: str | None, text: Any, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        runtime.predict(["ada was born", text], adapters=adapters[task])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("ada", "a text stands where a list of texts is wanted"),
        (b"ada", "a bytes stands where"),
        ({"text": "ada"}, "a dict stands where"),
        ({"ada"}, "a set stands where"),
        (None, "None stands where"),
        (3, "an int stands where"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_texts(runtime: Runtime, texts: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        runtime.predict(texts)
    assert words in str(caught.value)


def test_a_generator_is_no_list(runtime: Runtime) -> None:
    def rows() -> Iterator[str]:
        yield "ada"

    with pytest.raises(InvalidInput, match="a generator stands where"):
        runtime.predict(rows())  # type: ignore[arg-type]


def test_no_texts_are_no_predictions(runtime: Runtime) -> None:
    assert runtime.predict([]) == []
