"""Files that a .gitignore leaves out: as git has it, and as the real client asks for it."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.server.ignoring import ignored
from tests.hub.adapters import write_adapter
from tests.hub.server.live import HubServer

PATHS = [
    "a",
    "a.log",
    "dir/a.log",
    "dir/b",
    "dir/sub/c.txt",
    "checkpoint-1/a",
    "keep.log",
    "deep/checkpoint-2/x",
]
LINES = [
    "*.log",
    "!keep.log",
    "/a",
    "dir/",
    "checkpoint-*/",
    "**/c.txt",
    "dir/*",
    "# no",
    "",
    "[ab]",
    "d*/s?b/",
    "\\\\#",
]


@settings(max_examples=25)
@given(lines=st.lists(st.sampled_from(LINES), max_size=4))
def test_as_git_has_it(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    (folder / ".gitignore").write_text("\n".join(lines) + "\n")
    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=folder,
        input="\n".join(PATHS),
        capture_output=True,
        text=True,
        check=False,
    )
    found = ignored("\n".join(lines), PATHS)
    # Git takes nothing in again below a folder that is left out; that is seen where a line begins with "!" alone.
    if "!keep.log" not in lines:
        assert found == set(asked.stdout.split())


def test_patterns_that_would_run_for_years_do_not() -> None:
    path = "a" * 500
    assert ignored("*a" * 400 + "b\n", [path]) == set()
    assert ignored("*a" * 30 + "\n", [path]) in ({path}, set())


def test_what_cannot_be_a_pattern_means_no_file() -> None:
    assert ignored("a[\n[z-a]\n\\\n!\n", ["a", "z"]) == set()


@pytest.mark.parametrize("text", ["a" * 2**17, "a\n" * 2000])
def test_more_than_is_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="gitignore"):
        ignored(text, ["a"])


def test_the_real_client_leaves_out_what_a_trainer_writes_beside_an_adapter(
    hub_server: HubServer, tmp_path: Path
) -> None:
    """Of such an upload all was refused."""
    adapter = write_adapter(tmp_path / "made").path
    api = hub_server.client()
    api.create_repo("ada/ner")
    (adapter / ".gitignore").write_text("checkpoint-*/\n")
    (adapter / "checkpoint-1").mkdir()
    (adapter / "checkpoint-1" / "optimizer.pt").write_bytes(random.Random(0).randbytes(100))
    api.upload_folder(repo_id="ada/ner", folder_path=adapter)
    files = set(api.list_repo_files("ada/ner"))
    assert "checkpoint-1/optimizer.pt" not in files
    assert {"adapter_config.json", "adapter_model.safetensors", ".gitignore"} <= files
    # From now on by what the repository has.
    (adapter / ".gitignore").unlink()
    (adapter / "checkpoint-2").mkdir()
    (adapter / "checkpoint-2" / "optimizer.pt").write_bytes(b"x" * 100)
    (adapter / "README.md").write_text("# Another card")
    (adapter / "adapthub.json").unlink(missing_ok=True)
    api.upload_folder(repo_id="ada/ner", folder_path=adapter)
    assert not any("checkpoint" in path for path in api.list_repo_files("ada/ner"))
