"""A real hub server on loopback, in a thread of its own, and Hugging Face's real client pointed at it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from adapthub.hub.accounts import Scope, create_token
from adapthub.hub.server.lifecycle import Running, ServerSettings, serve
from tests.hub.empty import make_empty
from tests.web.live import in_a_thread


@dataclass(frozen=True)
class HubServer:
    """A server that runs over the hub in `data`."""

    running: Running
    data: Path

    @property
    def url(self) -> str:
        return self.running.address

    def token(self, name: str = "ada", scope: Scope = "write") -> str:
        """A token of an account, made for this."""
        with self.running.serving.store.database.writing() as session:
            return create_token(session, name, scope)[1]

    def client(self, name: str | None = "ada", scope: Scope = "write") -> HfApi:
        """Hugging Face's client, logged in as `name`, or nobody's."""
        return HfApi(endpoint=self.url, token=False if name is None else self.token(name, scope))

    def environment(self, home: Path, token: str | None = None, *, xet: bool = False) -> dict[str, str]:
        """For a process that uses the server as its Hugging Face Hub, with large files by LFS or by `xet`."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_XET_CACHE": str(home / "xet")}
        own |= {} if xet else {"HF_HUB_DISABLE_XET": "1"}
        own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return own | ({} if token is None else {"HF_TOKEN": token})


@contextmanager
def live(data: Path, **settings: object) -> Iterator[HubServer]:
    """Within: a server runs over the hub in `data`."""
    given: dict[str, Any] = {"port": 0, **settings}
    if given.get("database") is None and not data.exists():
        make_empty(data)
    with in_a_thread(partial(serve, ServerSettings(data, **given))) as running:
        yield HubServer(running, data)


class Servers:
    """Servers over hubs that are each kept in a folder, begun when they are first asked for."""

    def __init__(self) -> None:
        self._begun: dict[Path, tuple[HubServer, ExitStack]] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(*self._begun)

    def __call__(self, folder: Path) -> HubServer:
        """The server over the hub in `folder`."""
        if folder not in self._begun:
            running = ExitStack()
            self._begun[folder] = running.enter_context(live(folder / "hub")), running
        return self._begun[folder][0]

    def end(self, *folders: Path) -> None:
        """Stop those that run over hubs in `folders`: each looks into its outbox twice a second for as long as it runs."""
        for folder in folders:
            if folder in self._begun:
                self._begun.pop(folder)[1].close()


def wait_until_gone(url: str) -> None:
    """A server that is stopped drains first, and answers meanwhile."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError(f"{url} still answers")
