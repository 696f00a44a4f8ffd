"""What a namespace may have of one kind is bounded: members, keys, gates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict
from adapthub.hub import gates, members, namespace_keys, room
from adapthub.hub.accounts import create_token
from adapthub.hub.gates import Gate
from adapthub.hub.signing_keys import create_key
from adapthub.hub.store import Store


def a_member(session: Session, namespace: str, number: int) -> None:
    create_token(session, f"user{number}", "read")
    members.set_member(session, namespace, f"user{number}", "admin")


def a_gate(session: Session, namespace: str, number: int) -> None:
    gates.set_gate(session, Gate(namespace, "", f"alias{number}", reviewers=1))


def a_key(session: Session, namespace: str, number: int) -> None:
    pem = create_key(f"key{number}").pem
    namespace_keys.add_key(session, namespace, f"key{number}", pem)


@pytest.mark.parametrize("add", [a_member, a_gate, a_key])
def test_a_namespace_has_so_many(
    add: Callable[[Session, str, int], None],
    tmp_path: Path,
    own_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "MOST", 2)
    with Store.open(tmp_path).database.writing() as session:
        for number in range(2):
            add(session, "acme", number)
        with pytest.raises(Conflict, match="acme has 2 "):
            add(session, "acme", 2)
        add(session, "other", 3)
