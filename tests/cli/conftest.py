"""The command line in tests: in this process for speed, in one of its own for exit codes and streams."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click.testing
import pytest

from adapthub.cli.main import adapt
from tests.cli.data import write_conll

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """How one command ended."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one line on stderr of a command that was refused; asserts that it is one, and exit code 2."""
        assert self.code == 2, self
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("adapt: "), self.err
        return lines[0]

    def fine(self) -> str:
        """stdout of a command that worked."""
        assert self.code == 0, self
        return self.out


Command = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs `adapt` in this process, in `tmp_path`. A defect raises here instead of becoming a line."""
    monkeypatch.chdir(tmp_path)
    hook = sys.excepthook

    def run(*arguments: str | Path, stdin: str | None = None, **environment: str) -> Result:
        result = click.testing.CliRunner().invoke(
            adapt, [str(a) for a in arguments], stdin, environment, catch_exceptions=False, prog_name="adapt"
        )
        return Result(result.exit_code, result.stdout, result.stderr)

    yield run
    sys.excepthook = hook


@pytest.fixture
def shell(tmp_path: Path) -> Command:
    """Runs `adapt` in a process of its own, in `tmp_path`: real exit codes, real streams, real imports."""

    def run(*arguments: str | Path, stdin: str | None = None, **environment: str) -> Result:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps that a plan tries are tried in this process, which has imported what they need; what is given to the
    process of their own, and comes from it, is the same."""
    from adapthub.recipes import trial

    def run(arguments: list[str], *, input: bytes, **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert arguments[1:] == ["-m", trial.__name__]
        said = io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(said):
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
            trial.main()
        return subprocess.CompletedProcess(arguments, 0, said.getvalue().encode(), b"")

    monkeypatch.setattr(trial, "subprocess", SimpleNamespace(run=run))


def command(*arguments: str | Path) -> list[str]:
    """The argument vector that runs `adapt` with this interpreter."""
    return [sys.executable, "-m", "adapthub.cli.main", *map(str, arguments)]


def write_plain_adapter(folder: Path, *, seed: int = 0) -> Path:
    """A LoRA of rank 2 on one layer of a tiny BERT, as PEFT writes it: no manifest."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": "org/tiny",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["query"],
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    layer = "base_model.model.encoder.layer.0.attention.self.query"
    tensors = {
        f"{layer}.lora_A.weight": torch.randn(2, 32, generator=generator),
        f"{layer}.lora_B.weight": torch.randn(32, 2, generator=generator),
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def plain_adapter(tmp_path: Path) -> Path:
    """A plain PEFT folder."""
    return write_plain_adapter(tmp_path / "plain")


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """An adapter for entities on the tiny base, a few steps old. Do not write into it."""
    from adapthub.recipes import train

    folder = tmp_path_factory.mktemp("trained")
    data = write_conll(folder / "train.conll")
    result = train(
        "ner", data, base=str(tiny_base), output=folder / "run", max_steps=4, batch_size=4, quiet=True
    )
    return result.artifact.path


@pytest.fixture(scope="session")
def published_once(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in whose hub that adapter is acme/ner. Do not write into it."""
    home = tmp_path_factory.mktemp("published") / "home"
    arguments = ["push", str(trained_once), "acme/ner"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTHUB_HOME", str(home))
        result = click.testing.CliRunner().invoke(adapt, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return home


@pytest.fixture
def trained(cli: Command, tmp_path: Path, trained_once: Path, published_once: Path, own_home: Path) -> Path:
    """A copy of that adapter in the working folder, published as acme/ner."""
    folder = tmp_path / "trained"
    shutil.copytree(trained_once, folder)
    shutil.copytree(published_once, own_home, dirs_exist_ok=True)
    return folder
