"""The documents are true: their Python runs, their commands succeed, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from adapthub.cli.main import adapt

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = "cli.md"  # its examples are the commands' own help, which tests/cli runs


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all documents, so that each sample is fetched once."""
    return tmp_path_factory.mktemp("documents")


def blocks(document: Path) -> list[tuple[str, str]]:
    """(language, code) of every fenced Python and console block, in order."""
    return re.findall(r"^```(python|console)\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d.name != GENERATED], ids=lambda path: path.name
)
def test_examples_run(document: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(samples))
    monkeypatch.chdir(tmp_path)
    code = []
    for language, text in blocks(document):
        if language == "python":
            code.append(text)
            continue
        for line in text.splitlines():
            command = shlex.split(line.removeprefix("$ ")) if line.startswith("$ adapt") else []
            if command and command[1] != "demo":  # `make demo` is its own test
                subprocess.run(
                    [sys.executable, "-m", "adapthub.cli.main", *command[1:]], check=True, timeout=600
                )
    if code:
        subprocess.run([sys.executable, "-c", "\n".join(code)], check=True, timeout=600)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `adapt` of a console block, by itself or started by a launcher."""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.startswith("$ "):
            continue
        for part in re.split(r" (?:\|\|?|&&|;) ", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            start = next((at for at, word in enumerate(words) if word in ("adapt", "adapthub.cli")), None)
            if start is not None and not any(word in ("pip", "cd") for word in words[:start]):
                yield words[start + 1 :]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_have_their_options(document: Path) -> None:
    """Those too that no test runs, since they serve or need several processes."""
    for language, text in blocks(document):
        for given in commands(text) if language == "console" else ():
            command: click.Command = adapt
            words = given
            while words and isinstance(command, click.Group):
                inner = command.get_command(click.Context(command), words[0])
                if inner is None:
                    break
                command, words = inner, words[1:]
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert options <= known | {"--help", "--version"}, given


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


def test_architecture_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    modules = [
        path.stem
        for folder in ("adapters", "adapters/kernels", "web", "hub", "recipes", "runtime")
        for path in (ROOT / folder).glob("*.py")
        if path.stem != "__init__"
    ]
    assert not [name for name in modules if f"`{name}`" not in text]


def test_every_package_on_disk_is_installed() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(("adapthub", *path.parent.relative_to(ROOT).parts))
        for top in ("adapters", "web", "hub", "recipes", "runtime", "cli")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert folders == listed


def test_measurements_are_those_committed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.report", str(tmp_path / "b.md")], check=True, cwd=ROOT)
    assert (tmp_path / "b.md").read_text() == (ROOT / "docs" / "benchmarks.md").read_text()
