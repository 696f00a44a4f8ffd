"""Hugging Face's client as people have it: the newest version, and older ones that upload in other ways. Each in an
environment of its own, which pip fills."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.hub.adapters import write_adapter
from tests.hub.server import any_client
from tests.hub.server.live import HubServer
from tests.hub.server.test_tools import run

pytestmark = pytest.mark.slow

NEWEST = ""
LFS, XET = "lfs", "xet"
CLIENTS = [("1.10.0", LFS), ("1.20.0", XET), (NEWEST, LFS), (NEWEST, XET)]


@pytest.fixture(scope="session")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A Python that has a version of huggingface_hub, and for all else what this one has."""

    @cache
    def make(version: str) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        wanted = f"huggingface_hub=={version}" if version else "huggingface_hub"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", wanted], check=True)
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "zzz.pth").write_text(sysconfig.get_path("purelib"))  # comes after its own
        return python

    return make


@pytest.fixture(params=CLIENTS, ids=[f"{version or 'newest'}-{way}" for version, way in CLIENTS])
def client(
    request: pytest.FixtureRequest,
    python_with: Callable[[str], Path],
    hub_server: HubServer,
    tmp_path: Path,
) -> tuple[str, Path, dict[str, str]]:
    """The version, its Python and an environment for it."""
    version, way = request.param
    environment = hub_server.environment(tmp_path / "home", hub_server.token())
    environment["HF_HUB_DISABLE_XET"] = "1" if way == LFS else "0"
    return version, python_with(version), environment


def test_everything_that_people_do(client: tuple[str, Path, dict[str, str]], tmp_path: Path) -> None:
    version, python, environment = client
    adapter = write_adapter(tmp_path / "made", card="# A card\n", width=20_000)
    (tmp_path / "work").mkdir()
    program = [str(python), any_client.__file__, version, str(adapter.path), str(tmp_path / "work")]
    run(program, environment)
