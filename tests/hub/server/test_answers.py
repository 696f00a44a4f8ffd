"""Trees as clients read them: what the plainest reading of a commit gives, at a cost that its page bounds."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from adapthub.hub.server import answers
from adapthub.hub.server.answers import Listing, file_item
from adapthub.hub.trees import Blob, Tree, folders_of, git_oid
from tests import asking
from tests.hub.server.live import HubServer

parts = st.sampled_from(["a", "b", "a.txt", "a-b", "a0", "ä"])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
trees = st.sets(paths, max_size=12).map(
    lambda found: {
        path: Blob(f"{number:064x}", number, f"{number:040x}")
        for number, path in enumerate(sorted(found - folders_of(found)))
    }
)


def naive(tree: Tree, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    inside = f"{folder}/" if folder else ""
    below = [path for path in tree if path.startswith(inside)]
    found = {*below, *(one for one in folders_of(below) if one.startswith(inside))}
    return [naive_item(tree, one) for one in sorted(found) if recursive or "/" not in one[len(inside) :]]


def naive_item(tree: Tree, path: str) -> dict[str, Any]:
    if path in tree:
        return file_item(path, tree[path])
    inside = "\n".join(f"{blob.oid} {name}" for name, blob in tree.items() if name.startswith(f"{path}/"))
    return {"type": "directory", "oid": git_oid(inside.encode()), "size": 0, "path": path}


@given(trees, st.just("") | paths, st.booleans())
def test_a_tree_is_listed_as_it_is(tree: Tree, folder: str, recursive: bool) -> None:
    listing = Listing(tree)
    assert listing.items(listing.below(folder, recursive=recursive)) == naive(
        tree, folder, recursive=recursive
    )
    assert listing.items([folder]) == (
        [naive_item(tree, folder)] if folder in tree or folder in folders_of(tree) else []
    )


def test_a_page_costs_what_is_on_it(hub_server: HubServer) -> None:
    """3,000 files sixteen folders deep took 40 s."""
    api = hub_server.client()
    api.create_repo("ada/deep")
    deep = "/".join("abcdefghijklmn")
    lines = ['{"key":"header","value":{"summary":"deep"}}']
    lines += [
        f'{{"key":"file","value":{{"path":"{n:03}/{deep}/f","content":"","encoding":"base64"}}}}'
        for n in range(300)
    ]
    url = f"{hub_server.url}/api/models/ada/deep"
    headers = {"Authorization": f"Bearer {api.token}"}
    assert asking.post(f"{url}/commit/main", content="\n".join(lines), headers=headers).status_code == 200
    with patch.object(answers, "git_oid", side_effect=git_oid) as hashed:
        answer = asking.get(f"{url}/tree/main?limit=1")
        assert [item["path"] for item in answer.json()] == ["000"]
        again = asking.get(answer.links["next"]["url"])
        assert [item["path"] for item in again.json()] == ["001"]
        assert hashed.call_count == 2
    every = list(api.list_repo_tree("ada/deep", recursive=True))
    assert len(every) == 300 * 16
    assert len({item.path for item in every}) == len(every)
