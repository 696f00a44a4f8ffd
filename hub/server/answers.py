"""Repositories, files and commits as the Hugging Face Hub's clients read them. Asks nothing of the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from adapthub.adapters.tasks import PEFT_TASK_TYPES
from adapthub.hub.storage.tables import CommitRow, RepoRow
from adapthub.hub.trees import Blob, Tree, folders_of, git_oid

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


def siblings(tree: Tree, *, blobs: bool) -> list[dict[str, Any]]:
    """The files of a commit by name; with `blobs`, their sizes and ids too."""
    return [
        {
            "rfilename": path,
            **({"size": blob.size, "blobId": blob.oid, **_lfs(blob, "sha256")} if blobs else {}),
        }
        for path, blob in tree.items()
    ]


def tree_items(tree: Tree, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below `folder` ("" is the root), by path; without `recursive` one level of them."""
    below = {path: blob for path, blob in tree.items() if path.startswith(f"{folder}/" if folder else "")}
    folders = {one for one in folders_of(below) if one.startswith(f"{folder}/" if folder else "")}
    depth = folder.count("/") + 1 if folder else 0
    items = [file_item(path, blob) for path, blob in below.items()]
    items += [folder_item(path, tree) for path in folders]
    kept = [item for item in items if recursive or item["path"].count("/") == depth]
    return sorted(kept, key=lambda item: str(item["path"]))


def file_item(path: str, blob: Blob) -> dict[str, Any]:
    """A file of a tree."""
    return {"type": "file", "oid": blob.oid, "size": blob.size, "path": path, **_lfs(blob, "oid")}


def folder_item(path: str, tree: Tree) -> dict[str, Any]:
    """A folder of a tree; its id says what is in it, though git's is another."""
    inside = "\n".join(f"{blob.oid} {name}" for name, blob in tree.items() if name.startswith(f"{path}/"))
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
