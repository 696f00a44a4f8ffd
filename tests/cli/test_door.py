"""The door itself: what help costs, what failures look like, where things are printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from adapthub.adapters.errors import AdapterNotFound, Conflict, StorageError, TrainingInterrupted
from adapthub.cli.failures import describe
from adapthub.cli.main import COMMANDS, adapt
from tests.cli.conftest import Command, command, write_plain_adapter

HEAVY = ("torch", "transformers", "peft", "sqlalchemy", "pydantic", "rich", "numpy", "obstore")


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from adapthub.cli.main import adapt\n"
        "try: adapt(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "..." not in done.stdout.replace("ARGS]...", "")  # each command's first line fits
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli: Command, name: str) -> None:
    text = cli(name, "--help").fine()
    assert "Example:" in text
    assert "$ adapt " in text


def test_an_unknown_command_gets_a_near_name(shell: Command) -> None:
    assert "'train'" in shell("trian").refused()


def test_an_unknown_option_is_one_line(shell: Command) -> None:
    line = shell("list", "--jsn").refused()
    assert "--json" in line
    assert "adapt list --help" in line


def test_a_missing_argument_is_one_line(shell: Command) -> None:
    assert "REF" in shell("show").refused()


def test_no_command_shows_the_help(shell: Command) -> None:
    result = shell()
    assert result.code == 2
    assert "train" in result.err


def test_a_defect_is_one_line_and_says_how_to_see_more(tmp_path: Path) -> None:
    program = (
        "from adapthub.cli import main, doctor\n"
        "def broken(*args, **kwargs): raise RuntimeError('two\\nlines')\n"
        "doctor.doctor.callback = broken\n"
        "main.adapt(['doctor'])\n"
    )

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    plain, traced = run(), run(ADAPTHUB_TRACEBACK="1")
    assert plain.returncode == traced.returncode == 1
    assert plain.stderr.splitlines() == [
        "adapt: unexpected RuntimeError: two lines. This is a defect; ADAPTHUB_TRACEBACK=1 shows where."
    ]
    assert "Traceback" in traced.stderr


def test_a_reader_that_leaves_early_is_no_failure(tmp_path: Path) -> None:
    script = f"{sys.executable} -m adapthub.cli.main completion bash | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr == ""


def test_a_full_disk_behind_stdout_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("completion", "bash"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "adapt: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (AdapterNotFound("no a/nr", hint="Did you mean 'a/ner'?"), "no a/nr. Did you mean 'a/ner'?"),
        (Conflict("acme/ner is taken"), "acme/ner is taken"),
        (StorageError("disk full"), "disk full"),
        (TrainingInterrupted("stopped", hint="Resume with --resume."), "stopped. Resume with --resume."),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), "x.csv: No such file or directory"),
        (click.ClickException("no"), "no"),
        (click.Abort(), "interrupted"),
        (MemoryError(), "out of memory. Use a smaller batch, shorter texts, or --quantize nf4."),
    ],
)
def test_the_words_of_expected_failures(error: BaseException, line: str) -> None:
    assert describe(error) == line


def test_foreign_words_cannot_drive_the_terminal(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise AdapterNotFound("no \x1b[31mred\x07\nname \u202eeman")

    monkeypatch.setattr(adapt.get_command(click.Context(adapt), "list"), "callback", lambda **_: broken())
    line = cli("list").refused()
    assert "\x1b" not in line
    assert "\x07" not in line
    assert "\u202e" not in line


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(cli: Command, shell_name: str) -> None:
    assert "_ADAPT_COMPLETE" in cli("completion", shell_name).fine()


def test_completion_knows_commands_and_options(cli: Command) -> None:
    done = cli(_ADAPT_COMPLETE="bash_complete", COMP_WORDS="adapt pro", COMP_CWORD="1")
    assert done.fine().split() == ["plain,promote"]
    done = cli(_ADAPT_COMPLETE="bash_complete", COMP_WORDS="adapt train --quant", COMP_CWORD="2")
    assert done.fine().split() == ["plain,--quantize"]


def test_completion_knows_the_names_in_the_hub(cli: Command, tmp_path: Path) -> None:
    cli("push", write_plain_adapter(tmp_path / "plain"), "acme/ner", "--alias", "prod").fine()
    typed_and_meant = {
        "acme": ["acme/ner"],
        "acme/ner@": ["acme/ner@prod", "acme/ner@v1"],
        "acme/ner@p": ["acme/ner@prod"],
    }
    for typed, names in typed_and_meant.items():
        done = cli(_ADAPT_COMPLETE="fish_complete", COMP_WORDS=f"adapt run {typed}", COMP_CWORD=typed)
        assert [line.removeprefix("plain,") for line in done.fine().splitlines()] == names
    for words, names in {
        "adapt rollback acme/ner": ["prod"],
        "adapt promote acme/ner@v1": ["prod"],
        "adapt push plain": ["acme/ner"],
    }.items():
        done = cli(_ADAPT_COMPLETE="fish_complete", COMP_WORDS=f"{words} ", COMP_CWORD="")
        assert [line.removeprefix("plain,") for line in done.fine().splitlines()] == names


@pytest.mark.parametrize(
    ("words", "typed", "meant"),
    [
        ("train --task", "se", ["plain,sentiment"]),
        ("train --method", "pre", ["plain,prefix"]),
        ("train --base", "package:mini", ["plain,package:minilm"]),
        ("plan --data", "sample:co", ["plain,sample:conll2003"]),
        ("train --data", "ru", ["file,ru"]),
        ("run acme/ner --base", "mod", ["file,mod"]),
    ],
)
def test_completion_knows_what_options_take(cli: Command, words: str, typed: str, meant: list[str]) -> None:
    done = cli(_ADAPT_COMPLETE="fish_complete", COMP_WORDS=f"adapt {words} {typed}", COMP_CWORD=typed)
    assert done.fine().splitlines() == meant


def test_doctor_prints_what_works_here(cli: Command) -> None:
    records = json.loads(cli("doctor", "--json").fine())
    assert records
    assert all(record.keys() == records[0].keys() for record in records)
    assert "torch" in cli("doctor").fine()


def test_the_reference_page_is_current(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    subprocess.run([sys.executable, "-m", "adapthub.cli.reference", str(page)], check=True)
    committed = Path(__file__).parents[2] / "docs" / "cli.md"
    assert committed.read_text() == page.read_text(), "run make docs"
