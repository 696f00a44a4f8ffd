"""The home folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapthub.adapters.files import write_bytes
from adapthub.adapters.home import home
from adapthub.hub import open_hub
from adapthub.runtime.feedback import FeedbackStore, Logged
from adapthub.runtime.tenants.store import TenantStore


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "mine"))
    assert home() == tmp_path / "mine"
    assert not home().exists()


def test_a_relative_or_tilde_home_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTHUB_HOME", "here")
    assert home() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ADAPTHUB_HOME", "~/there")
    assert home() == tmp_path / "there"


def test_without_the_variable_it_is_the_users_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ADAPTHUB_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home().name == "adapthub"
    assert home().is_absolute()


WRITERS: list[Callable[[], object]] = [
    open_hub,
    TenantStore.open,
    lambda: FeedbackStore().log(Logged("1", "acme", "chat", "", "a", ["b"])),
    lambda: write_bytes(home() / "bases" / "one.json", b"{}"),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_new_home_is_its_owners_alone(
    write: Callable[[], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "mine" / "home"))
    write()
    assert home().stat().st_mode & 0o777 == 0o700
    home().chmod(0o750)
    write_bytes(home() / "more", b"")
    assert home().stat().st_mode & 0o777 == 0o750


def test_what_is_kept_of_tenants_and_users_is_its_owners_alone(own_home: Path) -> None:
    for write in WRITERS[1:3]:
        write()
    files = [*own_home.glob("*.sqlite*")]
    assert len(files) >= 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
