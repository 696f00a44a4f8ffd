"""A hub's server, or its upkeep, killed at every write point: `python interrupted.py MODE FOLDER`.

Each attempt runs in a forked child, which is killed with SIGKILL at one point more than the one before; another child
then opens the hub, finds every visible version whole, does the same again and finds it done. Prints a JSON list of [where
it died, the number of versions that it left]. This process itself never touches a hub, so that forking it is safe.

Modes: `lfs` and `xet` upload an adapter and commit it over HTTP, by these ways; `alias` moves one; `gc` collects a
deleted repository; `backup` saves the hub into a folder; `restore` puts it into an empty one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2

from adapthub.adapters.artifact import Artifact
from adapthub.hub import repos
from adapthub.hub.accounts import create_token
from adapthub.hub.backups import backup, restore
from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lookup import find_repo
from adapthub.hub.reference import Reference
from adapthub.hub.server.app import create_app
from adapthub.hub.server.serving import Serving
from adapthub.hub.store import Store
from tests.hub.adapters import contents, write_adapter
from tests.hub.processes import FAILED, in_child
from tests.hub.write_points import WritePoints
from tests.hub.xet.encoding import encode_xorb, shard_of

NAME = "ada/ner"
WEIGHTS = "adapter_model.safetensors"


class Trial:
    """One hub, in `folder`, and what is done to it."""

    def __init__(self, mode: str, folder: Path, made: Path) -> None:
        self.mode = mode
        self.root = folder / "hub"
        self.folder = folder
        self.before = Artifact.read(made / "before")
        self.pushed = Artifact.read(made / "pushed")

    def prepare(self) -> int:
        """The hub as it is before."""
        hub = EmbeddedHub(self.root, cache=self.folder / "cache")
        hub.push(self.before, NAME, alias="prod")
        if self.mode in ("alias", "backup", "restore"):
            hub.push(self.pushed, NAME)
        if self.mode == "gc":
            hub.push(self.pushed, "ada/gone")
        with hub._store.database.writing() as session:
            token = create_token(session, "ada", "write")[1]
            gone = find_repo(session, Reference.parse("ada/gone"))
            if gone is not None:
                repos.remove(session, gone)
        (self.folder / "token").write_text(token)
        if self.mode == "restore":
            backup(Store.open(self.root), self.folder / "backup")
            shutil.rmtree(self.root)
            Store.open(self.root)
        return 0

    def act(self) -> None:
        """What is interrupted. It may be done again."""
        match self.mode:
            case "alias":
                EmbeddedHub(self.root, cache=self.folder / "cache").promote(f"{NAME}@v2", "prod")
            case "gc":
                collect(Store.open(self.root), grace=timedelta(0))
            case "backup":
                backup(Store.open(self.root), self.folder / "backup")
            case "restore":
                store = Store.open(self.root)
                with store.database.reading() as session:
                    done = find_repo(session, Reference.parse(NAME)) is not None
                if not done:
                    restore(store, self.folder / "backup")
            case _:
                asyncio.run(self._push())

    def verify(self) -> int:
        """Check what was left, do it again and check that it is done; the number of versions that were left."""
        left = self._check()
        self.act()
        done = self._check()
        if self.mode == "gc":
            assert done == 1
            assert check(Store.open(self.root)).garbage == 0
        else:
            assert done == 2
        if self.mode == "alias":
            assert EmbeddedHub(self.root).show(f"{NAME}@prod").version.number == 2
        if self.mode == "backup":
            restored = Store.open(self.folder / "restored")
            restore(restored, self.folder / "backup")
            assert check(restored).versions == 2
        return left

    def _check(self) -> int:
        store = Store.open(self.root)
        report = check(store)
        assert report.whole, report.problems
        hub = EmbeddedHub(self.root, cache=self.folder / f"cache-{os.urandom(4).hex()}")
        expected = [self.before, self.pushed]
        versions = [] if hub.available(NAME) else list(hub.show(NAME).versions)
        for version in versions:
            artifact = expected[version.number - 1]
            assert contents(hub.pull(f"{NAME}@v{version.number}").path) == contents(artifact.path)
        assert report.versions == len(versions)
        return len(versions)

    async def _push(self) -> None:
        serving = Serving.open(self.root)
        transport = httpx2.ASGITransport(app=create_app(serving))
        headers = {"Authorization": f"Bearer {(self.folder / 'token').read_text()}"}
        files = {name: (self.pushed.path / name).read_bytes() for name in self.pushed.files}
        record = self.pushed.files[WEIGHTS]
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def ask(method: str, url: str, **options: Any) -> httpx2.Response:
                answer = await client.request(method, url, **options)
                assert answer.status_code == 200, answer.text
                return answer

            if self.mode == "lfs":
                batch = {"operation": "upload", "objects": [{"oid": record.sha256, "size": record.size}]}
                url = f"/{NAME}.git/info/lfs/objects/batch"
                (entry,) = (await ask("POST", url, json=batch, headers=headers)).json()["objects"]
                if "actions" in entry:
                    await ask("PUT", entry["actions"]["upload"]["href"], content=files[WEIGHTS])
            else:
                url = f"/api/models/{NAME}/xet-write-token/main"
                grant = (await ask("GET", url, headers=headers)).json()
                access = {"Authorization": f"Bearer {grant['accessToken']}"}
                xorb = encode_xorb([files[WEIGHTS]])
                cas = grant["casUrl"]
                await ask("POST", f"{cas}/v1/xorbs/default/{xorb.name}", content=xorb.data, headers=access)
                shard = shard_of(files[WEIGHTS], [xorb.term()])
                await ask("POST", f"{cas}/v1/shards", content=shard, headers=access)
            lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "interrupted"}}]
            for name, data in files.items():
                if name == WEIGHTS:
                    value = {"path": name, "algo": "sha256", "oid": record.sha256, "size": record.size}
                    lines.append({"key": "lfsFile", "value": value})
                else:
                    content = base64.b64encode(data).decode()
                    lines.append({"key": "file", "value": {"path": name, "content": content}})
            body = "\n".join(map(json.dumps, lines)).encode()
            await ask("POST", f"/api/models/{NAME}/commit/main", content=body, headers=headers)
        serving.close()


def main(mode: str, folder: Path) -> None:
    made = folder / "made"
    write_adapter(made / "before", seed=1, card="# Before")
    write_adapter(made / "pushed", seed=2, card="# Interrupted")
    template = folder / "template"
    template.mkdir()
    assert in_child(lambda: Trial(mode, template, made).prepare()) == 0
    outcomes = []
    for at in range(1, 1000):
        trial = folder / f"trial-{at}"
        shutil.copytree(template, trial)
        died = in_child(lambda at=at, trial=trial: _killed(Trial(mode, trial, made), at))  # type: ignore[misc]
        left = in_child(lambda trial=trial: Trial(mode, trial, made).verify())  # type: ignore[misc]
        where = (trial / "died-at").read_text() if died else "not at all"
        if left == FAILED or died not in (0, -signal.SIGKILL):
            raise AssertionError(f"point {at}, {where}: the hub is not as it should be")
        shutil.rmtree(trial)
        if died == 0:
            break
        outcomes.append([where, left])
    print(json.dumps(outcomes))


def _killed(trial: Trial, at: int) -> int:
    def die(kind: str) -> None:
        (trial.folder / "died-at").write_text(kind)
        os.kill(os.getpid(), signal.SIGKILL)

    points = WritePoints(at, die)
    with points.installed():
        trial.act()
        points.reach("the end")
    return 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
