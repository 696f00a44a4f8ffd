"""Of which examples texts are written: how many, which, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.answered import note, places, setting, write
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.runtime import Runtime
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.tokenizer_kinds import byte_level


def rows(count: int, answered: int | str) -> Dataset:
    examples = tuple(Example({"text": f"text {at}"}, "a.csv", at) for at in range(count))
    return Dataset(examples, "a.csv", {"text": "text"}, setting(answered))


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (4, [0, 2, 5, 7]),  # spread over the data, which may be in some order
        ("3", [0, 3, 6]),
        (1, [0]),
        (0, []),
        (10, [*range(10)]),
        (11, [*range(10)]),
        ("all", [*range(10)]),
    ],
)
def test_as_many_as_are_asked_for_spread_evenly(answered: int | str, expected: list[int]) -> None:
    assert places(rows(10, answered)) == expected


def test_it_is_said_where_not_all_are_written() -> None:
    assert note(rows(2000, 1500)) == (
        "texts of 1,500 of 2,000 rows are written and measured (answered), the loss of all"
    )
    assert note(rows(4, 4)) is note(rows(4, "all")) is note(rows(4, 9)) is None


@pytest.mark.parametrize("answered", [-1, True, 1.5, None, "", "-1", "1.5", "²", "some"])
def test_what_is_no_number_of_examples(answered: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"answered={answered!r} is no number of examples"):
        setting(answered)


def test_each_prompt_has_the_text_that_its_room_and_the_stops_allow(tmp_path: Path) -> None:
    tokenizer = byte_level()
    write_causal_base(tmp_path, vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=None)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("ada was born in london " * 9)["input_ids"]
    prompts = {
        at: ids[:length] for at, length in ((0, 70), (1, 20), (3, 64), (4, 62))
    }  # 64 and more: no room
    with Runtime(str(tmp_path)) as runtime:
        alone, short = (
            runtime.generate([prompts[at]], None, max_new_tokens=most)[0] for at, most in ((1, 6), (4, 2))
        )
        written = write(runtime, None, prompts, 5, most=6, stops=())
        stopped = write(runtime, None, prompts, 5, most=6, stops=alone.token_ids[2:3])
    assert written == ["", alone.text, "", "", short.text]
    assert len(stopped[1]) < len(alone.text)
