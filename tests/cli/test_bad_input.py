"""What people get wrong, through the command line to its end: exit code 2, one clear line, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Result, command
from tests.cli.data import write_conll, write_reviews
from tests.conftest import write_tiny_base

NER = ("train", "--task", "ner", "--max-steps", "2", "--batch-size", "4")
SENTIMENT = ("train", "--task", "sentiment", "--max-steps", "2", "--batch-size", "4")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("review,stars\nfine,5\n", ("reviews.csv", "'review'", "'stars'")),
        ("text,label\n", ("reviews.csv",)),
        ("", ("reviews.csv", "empty")),
        ("text,label\nfine,good\nbad,\n", ("reviews.csv:3", "label")),
        ("text,label\nfine,good\ndull,good\n", ("reviews.csv", "'good'")),
    ],
    ids=["missing column", "no rows", "empty file", "empty label", "one label"],
)
def test_a_table_that_cannot_be_used(
    cli: Command, tmp_path: Path, tiny_base: Path, text: str, expected: tuple[str, ...]
) -> None:
    (tmp_path / "reviews.csv").write_text(text)
    line = cli(*SENTIMENT, "--data", "reviews.csv", "--base", tiny_base).refused()
    assert all(words in line for words in expected), line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ada B-PER\nwas O\n\nin O\nlondon I-LOC\n", ("train.conll:5", "I-LOC", "BIO")),
        ("ada B-PER\nwas\n", ("train.conll:2",)),
        ("", ("train.conll", "empty")),
        ("the O\nfilm O\n", ("train.conll", "O")),
    ],
    ids=["broken BIO", "missing label", "empty file", "no entity"],
)
def test_a_conll_file_that_cannot_be_used(
    cli: Command, tmp_path: Path, tiny_base: Path, text: str, expected: tuple[str, ...]
) -> None:
    (tmp_path / "train.conll").write_text(text)
    line = cli(*NER, "--data", "train.conll", "--base", tiny_base).refused()
    assert all(words in line for words in expected), line
    assert not (tmp_path / "runs").exists()


def test_a_delimiter_that_is_no_character(cli: Command, tmp_path: Path, tiny_base: Path) -> None:
    data = write_reviews(tmp_path / "reviews.csv")
    for delimiter in ("abc", "10", '"\\n"', '"\\""'):
        arguments = (*SENTIMENT, "--data", data, "--base", tiny_base, "--set", f"delimiter={delimiter}")
        assert "delimiter is one character" in cli(*arguments).refused()


def test_a_label_that_only_the_test_split_has(cli: Command, tmp_path: Path, tiny_base: Path) -> None:
    write_conll(tmp_path / "train.conll")
    (tmp_path / "test.conll").write_text("ada B-PER\n\nthe O\nfilm B-ART\n")
    line = cli(*NER, "--data", "train.conll", "--test", "test.conll", "--base", tiny_base).refused()
    assert "test.conll:4" in line
    assert "'B-ART'" in line


def test_a_file_in_another_encoding(cli: Command, tmp_path: Path, tiny_base: Path) -> None:
    text = write_reviews(tmp_path / "r.csv").read_text().replace("fine", "café")
    (tmp_path / "reviews.csv").write_bytes(text.encode("latin-1"))
    line = cli(*SENTIMENT, "--data", "reviews.csv", "--base", tiny_base).refused()
    assert "reviews.csv" in line
    assert "utf-8" in line.lower()
    cli(*SENTIMENT, "--data", "reviews.csv", "--base", tiny_base, "--encoding", "latin-1", "--dry-run").fine()


def test_files_and_bases_that_are_not_there(cli: Command, tmp_path: Path, tiny_base: Path) -> None:
    write_conll(tmp_path / "train.conll")
    assert "trian.conll" in cli(*NER, "--data", "trian.conll", "--base", tiny_base).refused()
    line = cli(*NER, "--data", "train.conll", "--base", "./no-such-base").refused()
    assert "./no-such-base" in line
    line = cli(*NER, "--data", "train.conll", "--base", "package:minilmm").refused()
    assert "minilm" in line.replace("minilmm", "")
    line = cli(*NER, "--data", "train.conll", "--base", "minilm").refused()
    assert "Did you mean package:minilm?" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--task", "nre"), "'ner'"),
        (("--method", "lroa"), "'lora'"),
        (("--rank", "0"), "rank"),
        (("--set", "max_lenght=9"), "'max_length'"),
        (("--set", "max_length"), "NAME=VALUE"),
        (("--set", "lr=1"), "--learning-rate"),
        (("--set", "seq-len=9"), "--max-length"),
        (("--set", "warmup_ratio=0.1"), "--set warmup"),
        (("--label-column", "9"), "Set --label-column."),
        (("--batch-size", "0"), "--batch-size is a number above 0"),
        (("--max-length", "1"), "Set --max-length above 2"),
        (("--set", "eval_steps=0"), "--set eval_steps is a number"),
        (("--set", "hub=x"), "hub is no setting"),
        (("--validation", "train.conll", "--no-validation"), "--no-validation"),
        (("--method", "prefix", "--set", "lora_plus_ratio=8"), "'lora_plus_ratio' is no setting"),
        (("--alias", "prod"), "--push"),
        (("--name", "acme/x", "--push", "--alias", "v2"), "alias 'v2'"),
        (("--seed", "-1"), "--seed"),
        (("--name", "no namespace"), "namespace/name"),
        (("--name", "acme/ner@v2"), "Write acme/ner."),
        (("--set", "encoding=3"), "unknown text encoding '3'"),
        (("--base", " "), "no base model is named"),
        (("--data", ""), "no data is named"),
        (("--name", "no-namespace", "--push"), "namespace/name"),
        (("--resume",), "nothing to resume"),
        (("--resume", "nowhere"), "nowhere"),
        (("--quantize", "fp3"), "nf4"),
    ],
)
def test_options_that_cannot_work(
    cli: Command, tmp_path: Path, tiny_base: Path, options: tuple[str, ...], expected: str
) -> None:
    data = write_conll(tmp_path / "train.conll")
    assert expected in cli(*NER, "--data", data, "--base", tiny_base, *options).refused()
    assert not (tmp_path / "runs").exists()


def test_a_name_that_another_task_has(cli: Command, tmp_path: Path, tiny_base: Path, trained: Path) -> None:
    data = write_reviews(tmp_path / "reviews.csv")
    before = cli("show", "acme/ner", "--json").fine()
    arguments = (*SENTIMENT, "--data", data, "--base", tiny_base)
    assert "acme/ner" in cli(*arguments, "--name", "acme/ner", "--push").refused()
    assert "trained" in cli(*arguments, "--output", "trained").refused()  # a folder that is taken
    assert cli("show", "acme/ner", "--json").fine() == before
    assert trained.is_dir()


def test_an_adapter_on_another_base(cli: Command, tmp_path: Path, trained: Path) -> None:
    other = write_tiny_base(tmp_path / "other", seed=1)
    line = cli("run", "acme/ner", "ada was born in london .", "--base", other).refused()
    assert "weights differ" in line
    wider = write_tiny_base(tmp_path / "wider", hidden=128)
    write_conll(tmp_path / "ner.conll")
    line = cli("eval", "acme/ner", "--data", "ner.conll", "--base", wider).refused()
    assert "shapes differ" in line


@pytest.mark.parametrize("change", ["missing", "left over", "misshapen"])
def test_tensors_that_do_not_fit(
    cli: Command, tmp_path: Path, tiny_base: Path, trained: Path, change: str
) -> None:
    from safetensors.torch import load_file, save_file

    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "adapter_config.json").write_bytes((trained / "adapter_config.json").read_bytes())
    tensors = load_file(trained / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    if change == "missing":
        del tensors[name]
    elif change == "left over":
        tensors[name.replace("lora_A", "lora_C")] = tensors[name].clone()
    else:
        tensors[name] = tensors[name][:, 1:].clone()
    save_file(tensors, plain / "adapter_model.safetensors", {"format": "pt"})
    line = cli("run", plain, "ada was born in london .", "--base", tiny_base).refused()
    assert name.removeprefix("base_model.model.").split(".lora_")[0] in line


def test_what_is_no_adapter_at_all(cli: Command, tmp_path: Path, tiny_base: Path, trained: Path) -> None:
    (tmp_path / "file").touch()
    assert "holds a base model, not an adapter" in cli("push", tiny_base, "acme/x").refused()
    assert "holds a base model, not an adapter" in cli("run", tiny_base, "ada").refused()
    assert "is a file" in cli("push", "file", "acme/x").refused()
    assert "is a file" in cli("run", "./file", "ada").refused()
    assert "no adapter folder at ../nope" in cli("run", "../nope", "ada").refused()
    assert cli("list", "nobody").fine() == "No adapters of nobody here. There is: acme.\n"
    assert cli("list", "nobody", "--json").fine() == "[]\n"


def test_a_column_that_is_called_a_number(cli: Command, tmp_path: Path, tiny_base: Path) -> None:
    data = write_reviews(tmp_path / "reviews.csv")
    data.write_text(data.read_text().replace("label", "5", 1))
    arguments = (*SENTIMENT, "--data", data, "--base", tiny_base, "--dry-run")
    cli(*arguments, "--set", "label_column=5").fine()
    assert "no column '6'" in cli(*arguments, "--set", "label_column=6").refused()


def test_weights_that_were_cut_or_changed(cli: Command, tiny_base: Path, trained: Path) -> None:
    weights = trained / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-1], whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        weights.write_bytes(damaged)
        line = cli("run", trained, "ada was born in london .", "--base", tiny_base).refused()
        assert "adapter_model.safetensors" in line
        assert "adapter_model.safetensors" in cli("push", trained, "acme/other").refused()
    assert len(json.loads(cli("list", "--json").fine())) == 1


def test_a_base_that_does_not_fit_into_memory(
    cli: Command, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_conll(tmp_path / "train.conll")
    monkeypatch.setattr("adapthub.adapters.memory.free_memory", lambda device: 1000)
    line = cli(*NER, "--data", data, "--base", tiny_base).refused()
    assert "nf4" in line  # what to change
    assert not (tmp_path / "runs").exists()


def test_revisions_and_expressions_that_mean_nothing(cli: Command, trained: Path) -> None:
    assert "v1" in cli("run", "acme/ner@v2", "ada").refused()
    assert "acme/ner" in cli("run", "acme/nerr", "ada").refused()
    assert "0.7*" in cli("run", "0.7* + acme/ner", "ada").refused()
    assert "stdin" in cli("run", "acme/ner", "-", stdin="").refused()


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_resume(
    cli: Command, tmp_path: Path, tiny_base: Path
) -> None:
    data = write_conll(tmp_path / "train.conll")
    arguments = ["train", "--task", "ner", "--data", str(data), "--base", str(tiny_base), "--output", "mine"]
    arguments += ["--max-steps", "60", "--batch-size", "4", "--set", "eval_steps=10", "--no-validation"]
    with subprocess.Popen(
        command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("mine/checkpoints/checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    *shown, last = err.splitlines()
    assert all(line.startswith(("step ", "train: ")) for line in shown)  # steps on a slow machine
    line = Result(process.returncode, out, last).refused()
    assert "checkpoint" in line
    assert "--resume mine" in line
    assert not (tmp_path / "mine" / "adapter").exists()
    refused = [word.replace("60", "500") for word in arguments]
    assert "max_steps" in cli(*refused, "--resume", "mine").refused()
    assert "mine/adapter" in cli(*arguments, "--resume", "mine").fine()


def test_ctrl_c_elsewhere_is_one_line(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from adapthub.cli import main, doctor\n"
        # A shell's background jobs, and so some test runners, ignore the signal.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "doctor.doctor.callback = lambda **_: os.kill(os.getpid(), signal.SIGINT)\n"
        "main.adapt(['doctor'])\n"
    )
    done = subprocess.run([*command()[:1], "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.split("\n") == ["", "adapt: interrupted", ""]  # the first ends the line of ^C


@pytest.mark.parametrize(
    "arguments", [("list",), ("search", "film"), ("show", "acme/ner"), ("push", "trained", "acme/ner")]
)
def test_a_home_that_cannot_be_opened(
    cli: Command, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "file" / "home"))
    line = cli(*arguments).refused()
    assert f"cannot open {tmp_path}/file/home" in line
    assert f"{tmp_path}/file is a file" in line
    assert "ADAPTHUB_HOME" in line
    assert "ublished" not in line


def test_a_hub_whose_database_cannot_be_opened(
    cli: Command, trained: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_home / "hub" / "hub.sqlite3").rename(own_home / "kept")
    (own_home / "hub" / "hub.sqlite3").mkdir()
    line = cli("list").refused()
    assert f"cannot open {own_home}/hub: unable to open" in line
    # What a folder that is read-only to this user comes to; root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert f"{own_home}/hub cannot be written" in cli("list").refused()


def test_a_disk_that_fills_during_push_loses_nothing(
    cli: Command, tmp_path: Path, tiny_base: Path, trained: Path, own_home: Path
) -> None:
    before = cli("show", "acme/ner", "--json").fine()
    weights = (trained / "adapter_model.safetensors").stat().st_size
    done = subprocess.run(
        command("push", trained, "acme/copy"),
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (weights // 2, weights // 2)),
    )
    Result(done.returncode, done.stdout, done.stderr).refused()
    assert cli("show", "acme/ner", "--json").fine() == before
    assert "acme/copy" in cli("show", "acme/copy").refused()
    assert cli("push", trained, "acme/copy").fine().startswith("Published acme/copy@v1")
