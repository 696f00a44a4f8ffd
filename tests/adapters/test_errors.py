"""The exception tree: one root, standard bases, the drawing at the top of the module is the truth."""

from __future__ import annotations

import pickle
import re

import pytest

from adapthub.adapters import errors
from adapthub.adapters.errors import AdaptHubError

TREE = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AdaptHubError)
]


def test_the_drawing_is_the_tree() -> None:
    drawn: dict[str, tuple[int, str | None]] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([ │├└─]+)(\w+)(?: \((\w+)\))?", line.removeprefix("    ")):
            drawn[found[2]] = (len(found[1]) // 4, found[3])
    assert drawn.keys() == {error.__name__ for error in TREE} - {"AdaptHubError"}
    for error in TREE[1:]:
        depth, standard = drawn[error.__name__]
        assert len([base for base in error.__mro__ if issubclass(base, AdaptHubError)]) - 1 == depth
        if standard:
            assert standard in {base.__name__ for base in error.__mro__}


@pytest.mark.parametrize("error", TREE)
def test_message_and_hint_are_one_line(error: type[AdaptHubError]) -> None:
    raised = error("the file x is bad.", hint="Remove it.")
    assert str(raised) == "the file x is bad. Remove it."
    assert (raised.message, raised.hint) == ("the file x is bad.", "Remove it.")
    assert str(error("plain")) == "plain"
    assert error("plain").hint is None
    assert error.__doc__


@pytest.mark.parametrize("error", TREE)
def test_errors_travel_between_processes(error: type[AdaptHubError]) -> None:
    copy = pickle.loads(pickle.dumps(error("what", hint="do")))
    assert type(copy) is error
    assert (str(copy), copy.message, copy.hint) == ("what. do", "what", "do")
