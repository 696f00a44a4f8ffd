"""Repositories, files and commits as the Hugging Face Hub's clients read them. Asks nothing of the database."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from adapthub.adapters.tasks import PEFT_TASK_TYPES
from adapthub.hub.registry import Facts
from adapthub.hub.storage.tables import CommitRow, RepoRow
from adapthub.hub.trees import Blob, Tree, git_oid

NO_MESSAGE = "(no message)"


def time_of(when: datetime) -> str:
    """ISO 8601 in milliseconds and UTC, the one form that clients parse."""
    return f"{when.strftime('%Y-%m-%dT%H:%M:%S')}.{when.microsecond // 1000:03d}Z"


def repo_info(repo: RepoRow, commit: CommitRow | None) -> dict[str, Any]:
    """What every form of a repository's information has; `commit` is the revision that was asked for."""
    card = repo.card
    task = card.get("pipeline_tag") or next((tag for tag in repo.tags if tag in PEFT_TASK_TYPES), None)
    return {
        "_id": f"{repo.id:024x}",
        "id": repo.full_name,
        "modelId": repo.full_name,
        "author": repo.namespace,
        "sha": None if commit is None else commit.oid,
        "lastModified": time_of(repo.modified),
        "createdAt": time_of(repo.created),
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": repo.tags,
        "pipeline_tag": task,
        "library_name": card.get("library_name") or ("peft" if "peft" in repo.tags else None),
    }


def config_of(facts: Facts | None) -> dict[str, Any]:
    """What the public hub takes from a configuration: of an adapter, its base and PEFT's type of its task. None for `facts`
    is a repository without an adapter."""
    if facts is None:
        return {}
    task = next((name for task, name in PEFT_TASK_TYPES.items() if task == facts.task), None)
    return {"peft": {"base_model_name_or_path": facts.base, "task_type": task}}


def siblings(tree: Tree, *, blobs: bool) -> list[dict[str, Any]]:
    """The files of a commit by name; with `blobs`, their sizes and ids too."""
    return [
        {
            "rfilename": path,
            **({"size": blob.size, "blobId": blob.oid, **_lfs(blob, "sha256")} if blobs else {}),
        }
        for path, blob in tree.items()
    ]


class Listing:
    """The files and folders of a commit by path, and what clients read of each: sorted once, a folder is a range."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._paths = sorted(tree)

    def below(self, folder: str, *, recursive: bool) -> list[str]:
        """The files and folders below `folder` ("" is the root), by path; without `recursive` one level of them."""
        start = len(folder) + 1 if folder else 0
        found: dict[str, None] = {}
        for path in self._paths[self._range(folder)]:
            parts = path[start:].split("/")
            ends = accumulate(parts, lambda folder, part: f"{folder}/{part}")
            found.update((path[:start] + end, None) for end in (ends if recursive else parts[:1]))
        return sorted(found)

    def items(self, paths: Iterable[str]) -> list[dict[str, Any]]:
        """What is at each of `paths`, but for those where nothing is."""
        found = ((path, self._tree.get(path)) for path in paths)
        return [
            _folder(path, self._inside(path)) if blob is None else file_item(path, blob)
            for path, blob in found
            if blob is not None or self._is_folder(path)
        ]

    def _is_folder(self, path: str) -> bool:
        inside = self._range(path)
        return path != "" and inside.start < inside.stop

    def _inside(self, folder: str) -> str:
        return "\n".join(f"{self._tree[path].oid} {path}" for path in self._paths[self._range(folder)])

    def _range(self, folder: str) -> slice:
        if not folder:
            return slice(0, len(self._paths))
        after = chr(ord("/") + 1)
        return slice(bisect_left(self._paths, f"{folder}/"), bisect_left(self._paths, folder + after))


def file_item(path: str, blob: Blob) -> dict[str, Any]:
    """A file of a tree."""
    return {"type": "file", "oid": blob.oid, "size": blob.size, "path": path, **_lfs(blob, "oid")}


def _folder(path: str, inside: str) -> dict[str, Any]:
    """A folder of a tree; its id says what is `inside`, though git's is another."""
    return {"type": "directory", "oid": git_oid(inside.encode()), "size": 0, "path": path}


def commit_item(commit: CommitRow) -> dict[str, Any]:
    """A commit of a history."""
    title, _, rest = commit.message.partition("\n")
    return {
        "id": commit.oid,
        "title": title or NO_MESSAGE,
        "message": rest.strip(),
        "date": time_of(commit.created),
        "authors": [{"user": commit.author}] if commit.author else [],
    }


def last_commit(commit: CommitRow) -> Mapping[str, str]:
    """What a tree says of the commit that a file comes from."""
    item = commit_item(commit)
    return {"id": item["id"], "title": item["title"], "date": item["date"]}


def only(info: Mapping[str, Any], expand: Sequence[str]) -> dict[str, Any]:
    """The properties that were asked for by name."""
    wanted = {"_id", "id", "modelId", *expand}
    return {key: value for key, value in info.items() if key in wanted}


def _lfs(blob: Blob, key: str) -> dict[str, Any]:
    if not blob.is_lfs:
        return {}
    return {"lfs": {key: blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}}
