"""Pairs and judged answers: every way of writing them means the same, and what is wrong is named with its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.preferences import COLUMNS, judged, read_preferences

ASKED = [{"role": "user", "content": "What is 2 + 2?"}]
GOOD, BAD = "It is 4.", "It is 5."


def says(text: str, before: list[dict[str, str]] | None = None) -> list[dict[str, str]]:
    return [*(before or []), {"role": "assistant", "content": text}]


def read(source: Any, **columns: str) -> Any:
    return read_preferences(source, {role: columns.get(role) for role in COLUMNS})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 + 2?", "chosen": GOOD, "rejected": BAD},
        {"prompt": ASKED, "chosen": says(GOOD), "rejected": says(BAD)},
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"chosen": says(GOOD, ASKED), "rejected": says(BAD, ASKED)},  # an implicit prompt, in messages
        {"prompt": "What is 2 + 2?", "chosen": says(GOOD, ASKED), "rejected": says(BAD, ASKED)},
        {"prompt": None, "chosen": says(GOOD, ASKED), "rejected": says(BAD, ASKED)},
        {"Question": "What is 2 + 2?", "better": GOOD, "worse": BAD},
    ],
)
def test_pairs_in_texts_and_messages(row: dict[str, Any]) -> None:
    (example,) = read([row])
    assert example.fields == {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}


def test_alpacas_input_and_a_system_column_are_read(tmp_path: Path) -> None:
    row = {
        "instruction": "Add.",
        "input": "2 and 2",
        "system_prompt": "Be brief.",
        "chosen": GOOD,
        "rejected": BAD,
    }
    (example,) = read([row])
    assert example.fields["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add.\n\n2 and 2"},
    ]
    assert read([{**row, "input": "", "system_prompt": None}])[0].fields["prompt"] == [
        {"role": "user", "content": "Add."}
    ]


def test_columns_beside_the_prompt_are_found_in_letters_of_any_case() -> None:
    row = {"Instruction": "", "Input": "2 and 2", "System": "Be brief.", "chosen": GOOD, "rejected": BAD}
    (example,) = read([row])
    assert example.fields["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 and 2"},
    ]
    (rendered,) = read([{"prompt": "<s>a", "Rendered": "true", "chosen": GOOD, "rejected": BAD}])
    assert rendered.fields["rendered"] is True
    with pytest.raises(InvalidData, match="row 1: system is int, not text"):
        read([{**row, "System": 5}])


def test_what_messages_have_besides_is_said() -> None:
    chosen = [{"role": "assistant", "content": GOOD, "reasoning_content": "A sum."}]
    (note,) = read([{"prompt": ASKED, "chosen": chosen, "rejected": BAD}]).notes
    assert note.startswith("messages of 1 rows have reasoning_content besides, which is not read")


def test_sharegpt_and_messages_in_parts_or_in_a_cell_are_messages() -> None:
    turn = {"from": "human", "value": "What is 2 + 2?"}
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}]
    answers = {"chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}
    for prompt in ({"conversations": [turn]}, {"prompt": parts}, {"prompt": json.dumps(ASKED)}):
        assert read([{**prompt, **answers}])[0].fields == {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}
    written = {"chosen": json.dumps(says(GOOD)), "rejected": json.dumps(says(BAD, ASKED))}
    assert read([{"prompt": json.dumps(ASKED), **written}])[0].fields["chosen"] == GOOD
    listed = '[{"name": "add"}]'  # JSON, and no messages
    (example,) = read([{"prompt": listed, "chosen": listed, "rejected": BAD}])
    assert example.fields["prompt"] == [{"role": "user", "content": listed}]
    with pytest.raises(InvalidData, match="data:row 1: prompt: message 1 has the role 'usr'"):
        read([{"prompt": [{"role": "usr", "content": "a"}], "chosen": GOOD, "rejected": BAD}])


def test_what_two_texts_begin_with_is_their_prompt() -> None:
    (example,) = read([{"chosen": "Say a number: four", "rejected": "Say a number: five"}])
    prompt = [{"role": "user", "content": "Say a number:"}]
    assert example.fields == {"prompt": prompt, "chosen": "four", "rejected": "five"}


def test_every_format_holds_the_same(tmp_path: Path) -> None:
    import datasets

    rows = [{"prompt": ASKED, "chosen": says(GOOD), "rejected": says(BAD)}]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "a.csv").write_text(f'prompt,chosen,rejected\n"What is 2 + 2?","{GOOD}",{BAD}\n')
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "a.parquet")
    expected = read(rows).fingerprint
    sources = (tmp_path / "a.jsonl", tmp_path / "a.csv", tmp_path / "a.parquet", table)
    assert [read(source).fingerprint for source in sources] == [expected] * 4


@pytest.mark.parametrize("label", [True, 1, 1.0, "true", "good", "1"])
def test_judged_answers(label: Any) -> None:
    (example,) = read([{"prompt": ASKED, "completion": says(GOOD), "label": label}])
    assert example.fields == {"prompt": ASKED, "answer": GOOD, "good": True}


@pytest.mark.parametrize("label", [False, 0, -1, "False", "bad", "0"])
def test_judged_bad(label: Any) -> None:
    assert not read([{"prompt": "a", "answer": "b", "label": label}])[0].fields["good"]


def test_a_pair_is_two_judged_answers() -> None:
    pair = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}
    alone = {"prompt": ASKED, "completion": "4", "label": True}
    answers = judged(read([pair, alone]))
    assert [(one.fields["answer"], one.fields["good"], one.source) for one in answers] == [
        (GOOD, True, "data:row 1"),
        (BAD, False, "data:row 1"),
        ("4", True, "data:row 2"),
    ]


FINE = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**FINE, "rejected": " b "}, "chosen and rejected are equal"),
        ({**FINE, "chosen": " "}, "chosen is empty"),
        ({**FINE, "rejected": None}, "rejected is empty"),
        ({**FINE, "rejected": says("")}, "rejected is empty"),
        ({**FINE, "chosen": ASKED}, "chosen has no assistant turn at the end"),
        ({**FINE, "chosen": []}, "chosen has no assistant turn at the end"),
        ({**FINE, "chosen": 3}, "chosen is int, not text or messages"),
        ({**FINE, "chosen": ["b"]}, "chosen: message 1 is 'b', no message"),
        (
            {**FINE, "chosen": [{"role": "assistant", "content": "b", "tool_calls": [{"name": "f"}]}]},
            "a turn that has tool_calls",
        ),
        ({**FINE, "prompt": 5}, "prompt is int"),
        ({**FINE, "prompt": says("a", ASKED)}, "the prompt ends with the assistant's turn"),
        (
            {"chosen": says("b", ASKED), "rejected": says("c", [{"role": "user", "content": "Why?"}])},
            "chosen and rejected answer different prompts",
        ),
        ({**FINE, "chosen": says("b", ASKED)}, "chosen and rejected answer different prompts"),
        ({"chosen": "a b", "rejected": "c d"}, "there is no prompt, and the answers do not begin alike"),
        ({"chosen": "a b", "rejected": "a "}, "one text begins with the other"),
        ({"prompt": "a", "completion": "b", "label": 0.5}, "the label 0.5 does not judge"),
        ({"prompt": "a", "completion": "b", "label": None}, "the label None does not judge"),
        ({"prompt": "", "completion": "b", "label": True}, "there is no prompt"),
        ({"prompt": "a", "completion": says("b", ASKED), "label": True}, "to another prompt than the row's"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(row: dict[str, Any], message: str) -> None:
    judgement = "label" in row
    fine = {"prompt": "a", "completion": "b", "label": True} if judgement else FINE
    with pytest.raises(InvalidData, match=f"data:row 2: .*{message}"):
        read([fine, row])


def test_the_line_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\na,b,b\n")
    with pytest.raises(InvalidData, match=r"pairs\.csv:3: chosen and rejected are equal"):
        read(path)


def test_columns_that_are_missing_are_named() -> None:
    with pytest.raises(
        InvalidData, match="neither pairs nor judged answers; the columns are 'prompt', 'chosen'"
    ):
        read([{"prompt": "a", "chosen": "b"}])
    with pytest.raises(InvalidData, match="no column 'best'"):
        read([FINE], chosen="best")
    assert (
        read([{"q": "a", "x": "b", "y": "c"}], prompt="q", chosen="x", rejected="y")[0].fields["rejected"]
        == "c"
    )
