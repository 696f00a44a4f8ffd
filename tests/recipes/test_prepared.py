"""Data read and tokenised once: what is kept is what would be read, by content, in bounded memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidData
from adapthub.recipes import prepared, train
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.data import tables
from adapthub.recipes.job import Job, prepare
from adapthub.recipes.recipe import lengths_of

WORDS = ("ada was born in london", "bob met alice", "the film is great", "a dull story", "she visited paris")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is kept however small, read and encoded in several parts, and read back at once."""
    monkeypatch.setattr(prepared, "LEAST_BYTES", 0)
    monkeypatch.setattr(prepared, "_HELD_BYTES", 0)
    monkeypatch.setattr(prepared, "_AT_ONCE", 7)
    monkeypatch.setattr(tables, "_BLOCK", 300)


def write(path: Path, kind: str) -> Path:
    """Some forty rows of unlike lengths, of which a few repeat."""
    texts = [f"{WORDS[at % 5]} {'and ' * (at % 4)}{at % 38}" for at in range(40)]
    match kind:
        case "ner":
            rows = [
                "\n".join(f"{word} {'B-X' if word in ('ada', 'bob') else 'O'}" for word in text.split())
                for text in texts
            ]
            path.write_text("\n\n".join(rows) + "\n")
            if path.suffix == ".tsv":
                path.write_text(path.read_text().replace(" ", "\t"))
        case "sentiment":
            rows = [f'"{text}",{"good" if at % 2 else "bad"}' for at, text in enumerate(texts)]
            path.write_text("text,label\n" + "\n".join(rows) + "\n")
        case "classify":
            rows = [
                json.dumps({"text": text, "labels": ["x", "y"][: 1 + at % 2]})
                for at, text in enumerate(texts)
            ]
            path.write_text("\n".join(rows) + "\n")
        case "embed":
            rows = [
                json.dumps({"query": text, "passage": f"{text} ?", "negative": "a story" if at % 3 else None})
                for at, text in enumerate(texts)
            ]
            path.write_text("\n".join(rows) + "\n")
    return path


KINDS = (
    ("ner", "a.conll"),
    ("ner", "a.tsv"),
    ("sentiment", "a.csv"),
    ("classify", "a.jsonl"),
    ("embed", "a.jsonl"),
)


def job_of(task: str, data: Path, base: Path) -> Job:
    return prepare(
        task,
        data,
        base=str(base),
        quantize=None,
        method=None,
        validation=None,
        test=None,
        seed=0,
        given={},
    )


def facts(job: Job) -> dict[str, Any]:
    return {
        "labels": job.labels,
        "encoding": job.encoding,
        "notes": job.notes,
        "splits": {
            name: {
                "rows": [dict(row) for row in split.encoded.rows],
                "lengths": lengths_of(split.encoded.rows).tolist(),
                "positions": [list(row) for row in split.encoded.positions],
                "counts": (split.encoded.supervised, split.encoded.targets, split.encoded.truncated),
                "examples": list(split.dataset),
                "some": [dict(row) for row in split.some(3).encoded.rows],
                "fingerprint": split.dataset.fingerprint,
                "source": split.dataset.source,
            }
            for name, split in job.splits.items()
        },
    }


@pytest.mark.parametrize(("task", "name"), KINDS)
def test_what_is_kept_is_what_would_be_read(
    task: str, name: str, tmp_path: Path, tiny_base: Path, request: pytest.FixtureRequest
) -> None:
    data = write(tmp_path / name, task)
    plain = facts(job_of(task, data, tiny_base))
    request.getfixturevalue("kept")
    assert facts(job_of(task, data, tiny_base)) == plain
    assert facts(job_of(task, data, tiny_base)) == plain


@pytest.mark.parametrize("task", ["ner", "sentiment", "embed", "chat"])
def test_what_is_kept_of_a_saved_dataset_is_what_would_be_read(
    task: str, tmp_path: Path, tiny_base: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class labels by their names, rows by their numbers; known by its content wherever it lies, and read no more."""
    folder = save(tmp_path / "saved", task)
    named = {"task": task, "data": folder, "base": tiny_base}

    def splits() -> list[Any]:
        datasets, labels, notes = prepared.prepare_splits(
            find_recipe(task), named["data"], validation=None, test=None, options={}
        )
        return [{name: [*part] for name, part in datasets.items()}, labels, notes]

    plain = splits()
    assert "the data has 'unsupervised' besides, which is not used" in plain[-1]
    assert not (own_home / "prepared").exists()
    monkeypatch.setattr(prepared, "LEAST_BYTES", 0)
    monkeypatch.setattr(prepared, "_HELD_BYTES", 0)
    monkeypatch.setattr("adapthub.recipes.data.records._AT_ONCE", 7)
    assert splits() == plain
    (entry,) = (own_home / "prepared").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(type(find_recipe(task)), "read", None)
        assert splits() == plain
        named["data"] = folder.rename(tmp_path / "moved")
        moved = splits()
    assert [entry] == list((own_home / "prepared").iterdir())
    assert moved[0]["train"][0].source == f"{tmp_path / 'moved' / 'train'}:row 1"
    assert moved[0]["train"][0].fields == plain[0]["train"][0].fields
    shutil.rmtree(tmp_path / "moved")
    save(tmp_path / "moved", task, start=1)
    assert splits() != moved
    assert len(list((own_home / "prepared").iterdir())) == 2


def save(folder: Path, task: str, start: int = 0) -> Path:
    """A DatasetDict of two splits, one of them not read, as the datasets library saves it."""
    import datasets

    features: Any = None
    at_all = range(start, start + 40)
    match task:
        case "ner":
            tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
            features = datasets.Features(
                {"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags}
            )
            rows: list[Any] = [{"tokens": ["ada", f"was {at}"], "ner_tags": [1, 0]} for at in at_all]
        case "sentiment":
            label = datasets.ClassLabel(names=["bad", "good"])
            features = datasets.Features({"text": datasets.Value("string"), "label": label})
            rows = [{"text": f"{WORDS[at % 5]} {at}", "label": at % 2} for at in at_all]
        case "embed":
            rows = [{"query": f"{at // 2}", "passage": f"{at} ?"} for at in at_all]
        case _:
            calls = [{"name": name, "arguments": {name: 1}} for name in ("one", "two")]
            rows = [
                {
                    "messages": [
                        {"role": "user", "content": f"Ask {at}", "tool_calls": None},
                        {"role": "assistant", "content": "", "tool_calls": [{"function": calls[at % 2]}]},
                    ]
                }
                for at in at_all
            ]
    table = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": table, "unsupervised": table}).save_to_disk(str(folder))
    return folder


def test_a_large_parquet_file_of_calls_is_read_as_a_small_one(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Without the arguments of the other functions, which Arrow fills in."""
    import datasets

    folder = save(tmp_path / "saved", "chat")
    datasets.load_from_disk(str(folder))["train"].to_parquet(str(tmp_path / "calls.parquet"))

    def read() -> list[Any]:
        found, _, _ = prepared.prepare_splits(
            find_recipe("chat"), tmp_path / "calls.parquet", validation=False, test=None, options={}
        )
        return [dict(example.fields) for example in found["train"]]

    plain = read()
    assert "two" not in str(plain[0])
    request.getfixturevalue("kept")
    assert read() == read() == plain


def test_groups_are_kept_too(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The column's name is part of what is asked; a file without it is none."""
    lines = write(tmp_path / "a.csv", "sentiment").read_text().splitlines()
    (tmp_path / "a.csv").write_text(
        "text,label,doc\n" + "".join(f"{line},{at % 9}\n" for at, line in enumerate(lines[1:]))
    )

    def splits(**options: str) -> list[Any]:
        datasets, _, notes = prepared.prepare_splits(
            find_recipe("sentiment"), tmp_path / "a.csv", validation=None, test=None, options=options
        )
        return [*map(list, datasets.values()), notes]

    plain = splits(group_column="doc")
    documents = [{example.fields["group"] for example in part} for part in plain[:2]]
    assert not documents[0] & documents[1]
    request.getfixturevalue("kept")
    assert splits(group_column="doc") == splits(group_column="doc") == plain
    assert splits() != plain


@pytest.mark.usefixtures("kept")
def test_a_file_is_read_and_tokenised_once_and_known_by_its_content(
    tmp_path: Path, tiny_base: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "a.csv", "sentiment")
    first = facts(job_of("sentiment", data, tiny_base))
    entries = {entry: entry.stat().st_ino for entry in (own_home / "prepared").iterdir()}
    assert len(entries) == 3  # what was read, and rows of two splits
    with monkeypatch.context() as patch:
        patch.setattr("adapthub.recipes.sentiment.Sentiment.read", None)
        patch.setattr("adapthub.recipes.sentiment.Sentiment.encode", None)
        moved = data.rename(tmp_path / "moved.csv")
        again = facts(job_of("sentiment", moved, tiny_base))
    assert {entry: entry.stat().st_ino for entry in (own_home / "prepared").iterdir()} == entries
    assert again["splits"]["train"]["rows"] == first["splits"]["train"]["rows"]
    assert again["splits"]["train"]["examples"][0].source == f"{moved}:2"
    moved.write_text(moved.read_text().replace("great", "awful"))
    other = facts(job_of("sentiment", moved, tiny_base))
    assert other["splits"]["train"]["rows"] != first["splits"]["train"]["rows"]


@pytest.mark.usefixtures("kept")
def test_entries_that_were_not_used_for_longest_go_when_there_is_no_room(
    tmp_path: Path, tiny_base: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_of("sentiment", write(tmp_path / "a.csv", "sentiment"), tiny_base)
    before = set((own_home / "prepared").iterdir())
    for entry in before:
        os.utime(entry, (0, 0))
    monkeypatch.setattr(prepared, "MOST_BYTES", 1)
    job_of("ner", write(tmp_path / "a.conll", "ner"), tiny_base)
    assert not before & set((own_home / "prepared").iterdir())


@pytest.mark.usefixtures("kept")
def test_what_was_begun_and_left_goes_and_what_is_being_written_stays(
    tmp_path: Path, tiny_base: Path, own_home: Path
) -> None:
    left, written = (own_home / "prepared" / f".rows-{name}.x" for name in ("left", "written"))
    for folder in (left, written):
        (folder / "train").mkdir(parents=True)
        (folder / "train" / "rows.arrow").write_bytes(bytes(100))
        os.utime(folder, (0, 0))
    for path in (left / "train", left / "train" / "rows.arrow"):
        os.utime(path, (0, 0))
    job_of("sentiment", write(tmp_path / "a.csv", "sentiment"), tiny_base)
    assert (left.exists(), written.exists()) == (False, True)


@pytest.mark.usefixtures("kept")
def test_entries_that_another_process_removes_meanwhile_are_passed_over(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each look at a file, the one looked at is gone."""
    job_of("sentiment", write(tmp_path / "a.csv", "sentiment"), tiny_base)
    listed = Path.rglob

    def rglob(folder: Path, pattern: str) -> list[Path]:
        found = list(listed(folder, pattern))
        shutil.rmtree(folder)
        return found

    def make_room(keep: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rglob", rglob)
            kept_room(keep)

    kept_room = prepared._make_room
    monkeypatch.setattr(prepared, "_make_room", make_room)
    again = job_of("ner", write(tmp_path / "a.conll", "ner"), tiny_base)
    assert len(again.splits["train"].encoded.rows) == 36


@pytest.mark.usefixtures("kept")
def test_a_run_goes_on_when_what_it_reads_is_deleted(tmp_path: Path, tiny_base: Path, own_home: Path) -> None:
    data = write(tmp_path / "a.csv", "sentiment")
    job_of("sentiment", data, tiny_base)
    job, again = (job_of("sentiment", data, tiny_base) for _ in range(2))
    wanted = facts(again)
    shutil.rmtree(own_home / "prepared")
    assert facts(job) == wanted
    prepared._make_room(own_home / "prepared" / "splits-x")


@pytest.mark.parametrize("name", ["examples.arrow", "rows.sha256", "inputs.u64", "rows.arrow", "lengths.i32"])
@pytest.mark.usefixtures("kept")
def test_an_entry_that_the_disk_has_only_in_part_is_made_anew(
    tmp_path: Path, tiny_base: Path, own_home: Path, name: str
) -> None:
    data = write(tmp_path / "a.csv", "sentiment")
    wanted = facts(job_of("sentiment", data, tiny_base))
    for size in (0, 32):
        for file in (own_home / "prepared").rglob(name):
            os.truncate(file, size)
        assert facts(job_of("sentiment", data, tiny_base)) == wanted


@pytest.mark.usefixtures("kept")
def test_files_that_change_names_are_called_by_their_own(tmp_path: Path, tiny_base: Path) -> None:
    first, second = write(tmp_path / "a.csv", "sentiment"), tmp_path / "aa.csv"
    second.write_text(first.read_text().replace("and", "or"))

    def sources(train: Path, test: Path) -> list[str]:
        job = prepare(
            "sentiment", train, base=str(tiny_base), quantize=None, method=None, validation=False, test=test,
            seed=0, given={},
        )  # fmt: skip
        return [job.splits[name].dataset.source for name in ("train", "test")]

    assert sources(first, second) == [str(first), str(second)]
    first.rename(tmp_path / "b.csv")
    second.rename(first)
    (tmp_path / "b.csv").rename(second)
    assert sources(second, first) == [str(second), str(first)]


@pytest.mark.usefixtures("kept")
def test_a_chat_template_is_known_by_what_its_file_says(tmp_path: Path, tiny_base: Path) -> None:
    talk, template = tmp_path / "talk.jsonl", tmp_path / "talk.jinja"
    talk.write_text(
        '{"prompt": "ada", "completion": "bob"}\n' * 3 + '{"prompt": "bob", "completion": "ada"}\n'
    )

    def read() -> str:
        sources = {"data": talk, "validation": False, "test": None}
        datasets, _, _ = prepared.prepare_splits(
            find_recipe("chat"), **sources, options={"template": str(template)}
        )
        return str(datasets["train"].settings["template"])

    for text in ("{{ messages[0]['content'] }}", "{{ messages[0]['content'] }}!"):
        template.write_text(text)
        assert (read(), read()) == (text, text)


def test_other_code_makes_other_entries() -> None:
    """The words of a prompt are made by runtime/instructions, words are cut into tokens by adapters/words."""
    code = prepared._code.__wrapped__()
    assert {"instructions.py", "words.py", "conll.py", "ner.py"} <= {name for name, *_ in code[0]}


@pytest.mark.usefixtures("kept")
def test_ids_that_stand_twice_far_from_each_other_are_said(tmp_path: Path) -> None:
    def notes(task: str, row: dict[str, Any]) -> tuple[str, ...]:
        data = tmp_path / f"{task}.jsonl"
        ids = [*range(30), 2, 5]
        rows = [{**row, "id": name, "label": "ab"[at % 2]} for at, name in enumerate(ids)]
        data.write_text("\n".join(map(json.dumps, rows)))
        assert len(list(tables.record_blocks(data))) > 2
        return prepared.prepare_splits(find_recipe(task), data, validation=False, test=None, options={})[-1]

    data = tmp_path / "classify.jsonl"
    note = f"train: 2 rows have the id of an earlier one: that of {data}:3 also stands at {data}:31"
    assert note in notes("classify", {"text": "good"})
    asked = {"question": "who?", "context": "ada " * 20, "answers": []}
    with pytest.raises(InvalidData, match=r"qa\.jsonl:31: its id also stands at .*qa\.jsonl:3"):
        notes("qa", asked)


@pytest.mark.parametrize("kind", ["mixed", "within", "several", "columns", "numbered"])
def test_what_is_odd_is_said_once_of_all_parts(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of a mix between two parts as of one in each; as of a file that is read at once."""
    kinds: dict[str, list[Any]] = {
        "mixed": [*["pos", "neg"] * 30, *["1", "POS"] * 30],
        "within": ["pos", "1", "POS"] * 40,
        "several": [["pos"], [], ["1", "POS"]] * 40,
        "columns": [None] * 120,
        "numbered": [None] * 120,
    }
    named: dict[str, list[Any]] = {"columns": ["x", "y", "z"], "numbered": [1, 2, 3]}
    columns = named.get(kind, [])
    flags = [
        dict(zip(map(str, columns), (int(at < 60), int(at >= 60), 0), strict=False)) for at in range(120)
    ]
    rows = [{"text": f"text {at}", "label": label, **flags[at]} for at, label in enumerate(kinds[kind])]
    data = tmp_path / "odd.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    options = {"label_columns": columns} if columns else {}

    def notes() -> tuple[str, ...]:
        return prepared.prepare_splits(
            find_recipe("classify"), data, validation=False, test=None, options=options
        )[-1]

    plain = notes()
    assert len([note for note in plain if "labels" in note or "no 1" in note]) == (1 if columns else 2)
    request.getfixturevalue("kept")
    assert len(list(tables.record_blocks(data))) > 2
    assert notes() == notes() == plain


@pytest.mark.usefixtures("kept")
def test_lists_of_labels_begin_in_no_later_part(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"text {at}", "label": "xy"[at % 2]} for at in range(120)]
    data = tmp_path / "odd.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    first = len(next(tables.record_blocks(data)).rows)
    rows[first:] = [{**row, "label": [row["label"]]} for row in rows[first:]]
    data.write_text("\n".join(map(json.dumps, rows)))
    message = rf"odd\.jsonl:{first + 1}: there is a list of labels, and in .*odd\.jsonl:1 one label"
    with pytest.raises(InvalidData, match=message):
        prepared.prepare_splits(find_recipe("classify"), data, validation=False, test=None, options={})


@pytest.mark.usefixtures("kept")
def test_a_part_of_which_nobody_accepted_a_row_is_passed_over(tmp_path: Path) -> None:
    """As of Prodigy's: the rows of the first parts were rejected, and those of the last were not."""
    ner, path = find_recipe("ner"), tmp_path / "a.jsonl"
    row = {"text": "Ada met Bob", "spans": [[0, 3, "PER"]], "answer": "reject"}
    rejected, accepted = ([row] * 9, [{**row, "answer": "accept", "text": f"Ada {at}"} for at in range(9)])
    path.write_text("\n".join(map(json.dumps, rejected + accepted)))
    options: dict[str, Any] = {"validation": False, "test": None, "options": {}}
    datasets, labels, _ = prepared.prepare_splits(ner, path, **options)
    assert list(datasets["train"]) == list(ner.read(path))
    assert labels == ("O", "B-PER")
    path.write_text("\n".join(map(json.dumps, rejected)))
    with pytest.raises(InvalidData, match=r"a\.jsonl: no row is left: \d rows were rejected"):
        prepared.prepare_splits(ner, path, **options)


@pytest.mark.usefixtures("kept")
def test_what_is_wrong_names_its_line_and_nothing_is_kept(
    tmp_path: Path, tiny_base: Path, own_home: Path
) -> None:
    data = write(tmp_path / "a.csv", "sentiment")
    with data.open("a") as stream:
        stream.write("a text without a label,\n")
    with pytest.raises(InvalidData, match=r"a\.csv:42: the label in column 'label' is empty"):
        job_of("sentiment", data, tiny_base)
    data = write(tmp_path / "b.jsonl", "classify")
    with data.open("a") as stream:
        stream.write('{"text": "x", "labels": [')
    with pytest.raises(InvalidData, match=r"b\.jsonl:41: not JSON"):
        job_of("classify", data, tiny_base)
    data.write_bytes(data.read_bytes()[:-30] + b"\xff\n")
    with pytest.raises(InvalidData, match=r"b\.jsonl:40: byte \d+ \(0xff\) is not UTF-8"):
        job_of("classify", data, tiny_base)
    assert list((own_home / "prepared").glob("*")) == []


@pytest.mark.usefixtures("kept")
def test_a_run_over_what_is_kept_makes_the_same_adapter(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "a.conll", "ner")
    options: dict[str, Any] = {"base": str(tiny_base), "quiet": True, "max_steps": 3, "batch_size": 4}
    kept = train("ner", data, output=tmp_path / "kept", **options)
    monkeypatch.setattr(prepared, "LEAST_BYTES", 1 << 30)
    plain = train("ner", data, output=tmp_path / "plain", **options)
    weights = "adapter_model.safetensors"
    assert kept.artifact.files[weights] == plain.artifact.files[weights]
    assert kept.metrics == plain.metrics


_LIMITED = """
import resource, sys
from adapthub.recipes.job import prepare
import torch, transformers
from transformers import Trainer
import peft
from adapthub.recipes.length_groups import LengthGroups
from adapthub.recipes.recipe import lengths_of
status = open("/proc/self/status").read()
data = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (data + {room}, data + {room}))
job = prepare("sentiment", sys.argv[1], base=sys.argv[2], quantize=None, method=None, validation=None, test=None,
              seed=0, given={{"max_length": 16}})
rows = job.splits["train"].encoded.rows
order = iter(LengthGroups(lengths_of(rows), 32, 0))
print(len(rows), len(rows[next(order)]["input_ids"]), job.splits["train"].dataset.fingerprint)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_file_of_three_hundred_megabytes_is_read_in_less_memory_than_it_has(
    tmp_path: Path, tiny_base: Path
) -> None:
    data = tmp_path / "large.csv"
    filler = "the film is a story " * 100
    with data.open("w") as stream:
        stream.write("text,label\n")
        for at in range(150_000):
            stream.write(f"{at} {filler},{'good' if at % 2 else 'bad'}\n")
    assert data.stat().st_size > 300e6
    ended = subprocess.run(
        [sys.executable, "-c", _LIMITED.format(room=250 << 20), str(data), str(tiny_base)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[:2] == ["140000", "16"]
