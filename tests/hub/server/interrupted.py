"""A hub's server, or its upkeep, killed at every write point: `python interrupted.py MODE FOLDER`.

Each attempt runs in a forked child, which is killed with SIGKILL at one point more than the one before; another child
then opens the hub, finds every visible version whole, does the same again and finds it done. Prints a JSON list of [where
it died, the number of versions that it left]. This process itself never touches a hub, so that forking it is safe.

Of `move`, `squash` and `purge` it prints whether it was done, 0 or 1.

Modes: `lfs` and `xet` upload an adapter and commit it over HTTP, by these ways; `parts` publishes it as our client does a
large one; `alias` moves one; `gc` collects a
deleted repository; `move` gives a repository another name; `squash` makes one commit of a branch that has a large file no
more, and collects; `purge` takes that file out of the history, and collects; `backup` saves the hub into a folder;
`restore` puts it into an empty one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import refs, repos
from adapthub.hub.accounts import create_token
from adapthub.hub.backups import backup, restore
from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.commits import Proposal, commit
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lookup import find_repo, require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.revisions import require_commit
from adapthub.hub.rewriting import large_files
from adapthub.hub.server.app import create_app
from adapthub.hub.server.serving import Serving
from adapthub.hub.store import Store
from adapthub.hub.trees import Blob, Delete, Put
from tests.hub.adapters import contents, write_adapter
from tests.hub.processes import FAILED, in_child, prepare_to_fork
from tests.hub.write_points import WritePoints
from tests.hub.xet.encoding import encode_xorb, shard_of

NAME, MOVED = "ada/ner", "ada/moved"
REWRITING = ("squash", "purge")
NOTES = bytes(range(256)) * 1024  # a large file of a branch's history
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
        if self.mode in ("alias", "backup", "restore", "move", *REWRITING):
            hub.push(self.pushed, NAME)
        if self.mode == "gc":
            hub.push(self.pushed, "ada/gone")
        with hub._store.database.writing() as session:
            token = create_token(session, "ada", "write")[1]
            gone = find_repo(session, Reference.parse("ada/gone"))
            if gone is not None:
                repos.remove(session, gone)
        (self.folder / "token").write_text(token)
        if self.mode in REWRITING:
            self._write_notes(hub._store)
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
            case "move":
                if not self._done():
                    asyncio.run(self._ask("/api/repos/move", {"fromRepo": NAME, "toRepo": MOVED}))
            case "squash":
                asyncio.run(self._ask(f"/api/models/{NAME}/super-squash/work", {"message": "one"}))
                collect(Store.open(self.root), grace=timedelta(0))
            case "purge":
                deletions = {"sha": [sha256_bytes(NOTES)], "rewriteHistory": True}
                asyncio.run(self._ask(f"/api/models/{NAME}/lfs-files/batch", {"deletions": deletions}))
                collect(Store.open(self.root), grace=timedelta(0))
            case _:
                asyncio.run(self._push())

    def _write_notes(self, store: Store) -> None:
        """A branch whose first commit has a large file, and whose second has not."""
        reference, blob = Reference.parse(NAME), Blob(sha256_bytes(NOTES), len(NOTES))
        store.blobs.put(blob.sha256, NOTES, origin="notes.dat")
        store.register([blob])
        with store.database.writing() as session:
            repo = require_repo(session, reference)
            refs.make_branch(session, repo, "work", require_commit(session, repo, "main"))
        alone: list[Put | Delete] = [*(Delete(path) for path in self.pushed.files), Put("notes.dat", blob)]
        gone: list[Put | Delete] = [Delete("notes.dat")]
        for changes in (alone, gone):
            commit(store, reference, Proposal(changes, "notes"), "work")

    def _done(self) -> bool:
        """Whether a repository was moved, or the large file is in no commit."""
        with Store.open(self.root).database.reading() as session:
            repo = find_repo(session, Reference.parse(NAME))
            if repo is None or self.mode == "move":
                return repo is None
            return sha256_bytes(NOTES) not in [file.sha256 for file in large_files(session, repo, limit=10)]

    def verify(self) -> int:
        """Check what was left, do it again and check that it is done; the number of versions that were left."""
        left = self._check()
        if self.mode in ("move", *REWRITING):
            assert left == 2
            left = int(self._done())
        self.act()
        done = self._check()
        if self.mode == "gc":
            assert done == 1
            assert check(Store.open(self.root)).garbage == 0
        else:
            assert done == 2
        if self.mode == "parts":
            collect(Store.open(self.root), grace=timedelta(0))
            assert check(Store.open(self.root)).garbage == 0
        if self.mode in ("move", *REWRITING):
            assert self._done()
        if self.mode in REWRITING:
            assert check(Store.open(self.root)).garbage == 0
            assert Store.open(self.root).blobs.size(sha256_bytes(NOTES)) is None
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
        name = MOVED if hub.available(NAME) and not hub.available(MOVED) else NAME
        versions = [] if hub.available(name) else list(hub.show(name).versions)
        for version in versions:
            artifact = expected[version.number - 1]
            assert contents(hub.pull(f"{name}@v{version.number}").path) == contents(artifact.path)
        assert report.versions == len(versions)
        return len(versions)

    async def _ask(self, path: str, body: dict[str, Any]) -> None:
        """One request to the server."""
        serving = Serving.open(self.root)
        transport = httpx2.ASGITransport(app=create_app(serving))
        headers = {"Authorization": f"Bearer {(self.folder / 'token').read_text()}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post(path, json=body, headers=headers)
            assert answer.status_code == 200, answer.text
        serving.close()

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

            if self.mode == "parts":
                await self._publish(ask, files, headers)
                serving.close()
                return
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

    async def _publish(
        self, ask: Callable[..., Awaitable[httpx2.Response]], files: dict[str, bytes], headers: dict[str, str]
    ) -> None:
        where, weights = f"/api/models/{NAME}", files[WEIGHTS]
        half = len(weights) // 2
        parts = {sha256_bytes(data): data for data in (weights[:half], weights[half:])}
        named = {"parts": [{"sha256": sha256, "size": len(data)} for sha256, data in parts.items()]}
        whole = f"{where}/blobs/{sha256_bytes(weights)}"
        for sha256 in (await ask("POST", whole, json=named, headers=headers)).json()["missing"]:
            await ask("PUT", f"{where}/blobs/{sha256}", content=parts[sha256], headers=headers)
        receipt = (await ask("POST", whole, json=named, headers=headers)).json()["receipt"]
        wanted: dict[str, dict[str, Any]] = {
            name: {"sha256": sha256_bytes(data), "size": len(data)}
            | ({"receipt": receipt} if name == WEIGHTS else {"content": base64.b64encode(data).decode()})
            for name, data in files.items()
        }
        published = await ask("POST", f"{where}/versions", json={"files": wanted}, headers=headers)
        assert published.json()["version"]["number"] == 2


def main(mode: str, folder: Path) -> None:
    prepare_to_fork()
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
