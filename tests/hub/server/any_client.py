"""What a user does with Hugging Face's client, of whatever version is installed: run as a program, against HF_ENDPOINT.

    python any_client.py VERSION ADAPTER WORK

VERSION is what the client must be, ADAPTER the folder of an adapter, WORK an empty folder. Ends with 0 if all was as it
should be. Imports nothing of ours: it runs where we are not installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

REPO = "ada/ner"


def main(version: str, adapter: Path, work: Path) -> None:
    assert huggingface_hub.__version__.startswith(version), huggingface_hub.__version__
    api = HfApi()
    assert api.whoami()["name"] == "ada"
    files = contents(adapter)

    api.create_repo(REPO)
    api.create_repo(REPO, exist_ok=True)
    first = api.upload_folder(repo_id=REPO, folder_path=adapter, commit_message="whole").oid
    assert contents(Path(snapshot_download(REPO, revision="v1"))) == files
    assert api.model_info(REPO).sha == first

    add = CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n# Another card\n")
    second = api.create_commit(REPO, [add], commit_message="card", parent_commit=first).oid
    assert [commit.commit_id for commit in api.list_repo_commits(REPO)][:2] == [second, first]
    assert api.model_info(REPO, revision="v2").sha == second

    api.create_tag(REPO, tag="release", revision=first)
    api.create_branch(REPO, branch="side/one", revision="release")
    card = b"# On a branch\n"
    api.upload_file(repo_id=REPO, path_or_fileobj=card, path_in_repo="README.md", revision="side/one")
    refs = api.list_repo_refs(REPO)
    assert [tag.name for tag in refs.tags] == ["release"]
    assert sorted(branch.name for branch in refs.branches) == ["main", "side/one"]
    assert Path(hf_hub_download(REPO, "README.md", revision="side/one")).read_bytes() == card
    assert contents(Path(snapshot_download(REPO, revision="release"))) == files
    api.delete_tag(REPO, tag="release")
    api.delete_branch(REPO, branch="side/one")

    assert [model.id for model in api.list_models(author="ada")] == [REPO]
    try:
        api.model_info("ada/nothing")
        raise AssertionError("a repository that is not there was found")
    except RepositoryNotFoundError:
        pass

    hf = str(Path(sys.executable).with_name("hf"))
    subprocess.run([hf, "upload", "ada/by-hf", str(adapter), "."], check=True)
    got = work / "got"
    subprocess.run([hf, "download", "ada/by-hf", "--revision", "v1", "--local-dir", str(got)], check=True)
    assert contents(got) == files
    api.delete_repo(REPO)


def contents(folder: Path) -> dict[str, bytes]:
    """The files directly in a folder, but hidden ones."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
