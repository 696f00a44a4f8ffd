"""`adapt serve` as a user runs it: a process of its own, asked over HTTP and by the other commands, and ended by signals."""

from __future__ import annotations

import json
import os
import queue
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.cli.serve import serve
from adapthub.hub import open_hub
from tests import asking
from tests.adapters.causal_pass import CAUSAL
from tests.adapters.peft_oracle import save_adapter
from tests.cli.conftest import Command, command
from tests.cli.test_examples import examples
from tests.runtime.generating import lora
from tests.runtime.server.live import write_base

SECRET = "bob met alice"
LONG = 300  # tokens


class Process:
    """A server's process: `ready` is what it printed, `address` where it is, `log` its lines so far."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.out: queue.Queue[str | None] = queue.Queue()  # None: there is no more
        self.log: list[str] = []
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_log)]
        for reader in self._readers:
            reader.start()
        self.ready = ""
        while "address" not in self.ready:
            line = self.out.get(timeout=120)
            assert line is not None, "it ended before it was ready"
            self.ready += line
        self.address = next(line for line in self.ready.splitlines() if "address" in line).split()[-1]

    def _read_out(self) -> None:
        for line in self.popen.stdout or ():
            self.out.put(line)
        self.out.put(None)

    def _read_log(self) -> None:
        self.log += self.popen.stderr or ()

    def ended(self) -> int:
        """The exit code, once it has one and all was read."""
        code = self.popen.wait(timeout=120)
        for reader in self._readers:
            reader.join()
        while (line := self.out.get()) is not None:
            self.ready += line
        return code

    @contextmanager
    def stream(self) -> Iterator[Iterator[str]]:
        """A long completion, line by line; the first has come."""
        body = {"prompt": SECRET, "max_tokens": LONG, "ignore_eos": True, "stream": True}
        model = asking.get(f"{self.address}/v1/models").json()["data"][0]["id"]
        with asking.stream(
            "POST", f"{self.address}/v1/completions", json={"model": model, **body}, timeout=120
        ) as answer:
            lines = (line for line in answer.iter_lines() if line)
            assert next(lines).startswith("data: ")
            yield lines


@contextmanager
def serving(*arguments: str | Path) -> Iterator[Process]:
    with subprocess.Popen(
        command("serve", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    ) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def hub(base: Path, tmp_path: Path) -> None:
    """acme/sql@prod and zeta/tone@prod in this home's hub."""
    for seed, name in enumerate(("acme/sql", "zeta/tone", "zeta/own")):
        adapter = save_adapter(base, tmp_path / str(seed), CAUSAL, lora(), seed=seed)
        open_hub().push(Artifact.read(adapter), name, alias="prod")


def test_a_server_is_started_asked_managed_and_ended(cli: Command, hub: None, base: Path) -> None:
    example = [*examples(serve)][1][1:]
    assert example[:2] == ["--base", "package:smollm2-135m"]
    assert "nf4" in example  # which needs weights in blocks that the tiny base has not
    arguments = [argument for argument in example[2:] if argument not in ("--quantize", "nf4")]
    with serving("--base", base, "--kv-tokens", "4096", *arguments) as server:
        at = ("--url", server.address)

        def residents() -> dict[str, dict[str, Any]]:
            status = json.loads(cli("serve", "status", *at, "--json").fine())
            return {name: one for one in status["residents"] for name in one["names"]}

        assert {name: one["state"] for name, one in residents().items()} == {"zeta/tone@v1": "slot"}
        assert cli("serve", "pin", "acme/sql@prod", *at).fine() == "Pinned acme/sql@v1\n"
        assert residents()["acme/sql@v1"]["pinned"]
        assert "acme/sql@v1" in cli("serve", "status", *at).fine()
        assert cli("serve", "unpin", "acme/sql@prod", *at).fine() == "Unpinned acme/sql@v1\n"
        assert cli("serve", "unload", "acme/sql@prod", *at).fine() == "Unloaded acme/sql@v1\n"
        assert json.loads(cli("serve", "load", "acme/sql", *at, "--json").fine())["version"] == "acme/sql@v1"
        assert "does not exist" in cli("serve", "load", "zeta/own", *at).refused()
        with server.stream() as lines:
            server.popen.send_signal(signal.SIGTERM)
            while (ready := asking.get(f"{server.address}/ready")).status_code != 503:
                pass
            assert ready.json() == {"status": "draining"}
            assert [*lines][-1] == "data: [DONE]"
        assert server.ended() == 0
        curl = shlex.split(server.ready[server.ready.index("curl") :].replace("\\\n", " "))
        assert curl[1] == f"{server.address}/v1/completions"
        assert json.loads(curl[-1])["model"] == base.name
        assert "no tenants: a single user, on this machine" in server.ready
        assert "4,096 tokens" in server.ready
        said = [json.loads(line) for line in server.log]
        (asked,) = [line for line in said if line["message"] == "POST /v1/completions"]
        assert (asked["status"], asked["model"], asked["outcome"]) == (200, base.name, "length")
        assert asked["completion_tokens"] == LONG
        assert 0 < asked["ttft"] < asked["seconds"]
        assert SECRET not in "".join(server.log)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(base: Path) -> None:
    with serving("--base", base, "--port", "0", "--kv-tokens", "4096") as server:
        with server.stream() as lines:
            server.popen.send_signal(signal.SIGTERM)
            while asking.get(f"{server.address}/ready").status_code != 503:
                pass
            server.popen.send_signal(signal.SIGTERM)
            with pytest.raises(httpx2.HTTPError):
                assert [*lines][-1] != "data: [DONE]"
        assert server.ended() == -signal.SIGTERM


@pytest.mark.slow
def test_a_base_that_only_predicts_is_served_too(tiny_base: Path) -> None:
    with serving("--base", tiny_base, "--port", "0") as server:
        assert asking.get(f"{server.address}/ready").status_code == 200
        asked = {"model": str(tiny_base), "prompt": "ada"}
        assert asking.post(f"{server.address}/v1/completions", json=asked).status_code == 400
        server.popen.send_signal(signal.SIGINT)
        assert server.ended() == 0
        assert "predictions only" in server.ready
        assert "every one of the hub that fits the base" in server.ready


def test_a_port_that_is_taken_is_one_line(cli: Command, base: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in cli("serve", "--base", base, "--port", port).refused()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "needs a base model"),
        (("--base", "/none/such"), "/none/such"),
        (("--base", "BASE", "--host", "0.0.0.0"), "without tenants"),
        (("--base", "BASE", "--adapters", "acme/none"), "acme/none"),
        (("--base", "BASE", "--adapters", ","), "Leave it out, or give --any"),
        (("--base", "BASE", "--adapters", "acme/sql", "--any"), "exclude each other"),
        (("--base", "BASE", "--kv-tokens", "0"), "--kv-tokens"),
        (("--base", "BASE", "--redact", "a+"), "--log-requests"),
        (("--base", "BASE", "--log-requests", "--redact", "("), "no regular expression"),
        (("--base", "BASE", "--log-requests", "--redact-with", "no:thing"), "cannot be imported"),
        (("--base", "BASE", "--port", "70000"), "--port"),
        (("--base", "BASE", "--device", "tpu"), "tpu"),
        (("status", "--url", "http://127.0.0.1:9"), "no server answers at http://127.0.0.1:9"),
        (("status", "--url", "nonsense"), "no server answers at nonsense"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    cli: Command, base: Path, options: tuple[str, ...], words: str
) -> None:
    arguments = [str(base) if option == "BASE" else option for option in options]
    assert words in cli("serve", *arguments).refused()
