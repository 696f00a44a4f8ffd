"""Every example in a help text runs, in the order of the commands, as a reader would run them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adapthub.cli.main import adapt
from adapthub.runtime.feedback import FeedbackStore, Logged, Rating
from tests.adapters.causal_pass import write_causal_base
from tests.cli.conftest import Command
from tests.cli.data import write_conll, write_reviews

# A server runs until it is told to end, and test_serve does; what is about a hub's accounts, asks one by HTTP, or names what
# only a served hub has, has tests of its own. The real ones fetch packages and train for minutes.
ELSEWHERE = (
    *("demo", "serve", "login", "logout", "whoami", "pull hf::", "run acme/qa"),
    *(f"hub {name}" for name in ("serve", "token", "login", "account", "org", "member", "backup", "restore")),
    *(f"hub {name}" for name in ("gate", "key", "approve", "webhook", "audit", "mirror", "base")),
)
REAL = (*ELSEWHERE, "samples fetch")


def examples(command: click.Command, parent: click.Context | None = None) -> Iterator[list[str]]:
    """The arguments of each `$ adapt ...` line below this command's help, continued lines joined."""
    context = click.Context(command, parent, info_name=command.name)
    for line in (command.help or "").replace("\\\n", " ").splitlines():
        if line.strip().startswith("$ adapt "):
            yield shlex.split(line.strip().removeprefix("$ adapt "))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from examples(below, context)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """The files that the examples name, and feedback to export."""
    write_conll(tmp_path / "train.conll")
    write_conll(tmp_path / "test.conll", copies=2)
    write_reviews(tmp_path / "reviews.csv")
    (tmp_path / "run.yaml").write_text(
        "task: ner\ndata: train.conll\nbase: package:minilm\nmax_steps: 2\nset: {warmup: 0}\n"
    )
    store = FeedbackStore()
    store.log(Logged("1", "acme", "token-classification", "acme/ner@v1", "Ada slept", []))
    store.rate(Rating("1", "acme", 1.0))
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "partner.pub").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tmp_path


@pytest.mark.slow
def test_the_examples_run_on_a_tiny_base(cli: Command, workplace: Path, tiny_base: Path) -> None:
    tiny = {
        "package:minilm": str(tiny_base),
        "package:smollm2-135m": str(write_causal_base(workplace / "causal")),
    }
    ran = 0
    for arguments in examples(adapt):
        if " ".join(arguments).startswith(REAL) or "--hub" in arguments:
            continue
        result = cli(*(tiny.get(word, word) for word in arguments))
        assert result.code == 0, (arguments, result.err)
        ran += 1
    assert ran > 25


@pytest.mark.slow
def test_the_examples_run_as_they_are_written(shell: Command, workplace: Path) -> None:
    for arguments in examples(adapt):
        if not " ".join(arguments).startswith(ELSEWHERE) and "--hub" not in arguments:
            assert shell(*arguments).code == 0, arguments
