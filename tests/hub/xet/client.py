"""Run as a program, for a cache and a process of its own: uploads files as one commit with huggingface_hub and hf_xet.

python client.py ENDPOINT PATH ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi


def main(endpoint: str, *paths: str) -> None:
    api = HfApi(endpoint=endpoint, token="hf_writer")
    api.create_repo("acme/ner", exist_ok=True)
    if len(paths) == 1:
        api.upload_file(path_or_fileobj=paths[0], path_in_repo=Path(paths[0]).name, repo_id="acme/ner")
        return
    operations = [CommitOperationAdd(path_in_repo=Path(path).name, path_or_fileobj=path) for path in paths]
    api.create_commit("acme/ner", operations, commit_message="several")


if __name__ == "__main__":
    main(*sys.argv[1:])
