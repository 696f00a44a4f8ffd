"""Which regular expressions a configuration may bring: those whose match is sure to end soon.

PEFT reads some strings of a configuration as regular expressions over module names. Python's engine
backtracks, so a stranger's expression can run for years. Admitted is what Python's own parser reads as
literals, classes, groups, alternatives, anchors and repeats, and whose number of ways to match a name stays
under a bound.

Does not match anything.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from adapthub.adapters.errors import AdmissionError

# Python's own parser of expressions, which has no types.
op: Any = import_module("re._constants")
parser: Any = import_module("re._parser")
MAX_LENGTH = 2_000
# The places of a module's name where a `.*` may well end, and the most that any repeat may ask for.
_PLACES = 24
_LONGEST = 64
# Four `.*` in a row with some choice beside, as generators of multi-modal patterns write: 0.1 s at worst.
MAX_WAYS = 4 * _PLACES**4

_NAME = re.compile(r"\^?[\w.\-]*\$?")
_SINGLE = {op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN}


def is_name(pattern: str) -> bool:
    """Whether a pattern is a module's name, or the end of one; it may be anchored: `^model.layers.0.q_proj$`."""
    return _NAME.fullmatch(pattern) is not None


def check_pattern(pattern: str, where: str) -> None:
    """Raise AdmissionError where `pattern` is not a regular expression of the safe subset."""
    if len(pattern) > MAX_LENGTH:
        raise AdmissionError(
            f"{where}: a pattern of {len(pattern)} characters; at most {MAX_LENGTH} are read"
        )
    if is_name(pattern):
        return
    hint = "Name the modules in a list instead."
    try:
        tree = parser.parse(pattern)
        _check_flags(tree.state.flags & ~re.UNICODE)
        ways = _ways_of_sequence(tree)
    except re.error as error:
        raise AdmissionError(
            f"{where}: {pattern!r:.100} is not a regular expression: {error}", hint=hint
        ) from error
    except (RecursionError, OverflowError) as error:
        raise AdmissionError(
            f"{where}: a pattern that is nested or repeated too deeply", hint=hint
        ) from error
    except _Unsafe as error:
        raise AdmissionError(
            f"{where}: {pattern!r:.100} has {error}, which is not allowed here", hint=hint
        ) from None
    if ways > MAX_WAYS:
        raise AdmissionError(f"{where}: {pattern!r:.100} can match in too many ways", hint=hint)


class _Unsafe(Exception):
    """A construct outside the subset; the text names it."""


def _check_flags(flags: int) -> None:
    if flags:  # ignoring case would make different literals equal, and the count below wrong
        raise _Unsafe("flags")


def _ways_of_sequence(nodes: Any) -> int:
    """An upper bound on the ways a backtracking engine can match `nodes` against one name."""
    ways = 1
    for code, argument in nodes:
        ways *= _ways(code, argument)
    return ways


def _ways(code: Any, argument: Any) -> int:
    if code in _SINGLE or code is op.AT:
        return 1
    if code is op.SUBPATTERN:
        _, added, removed, body = argument
        _check_flags(added | removed)
        return _ways_of_sequence(body)
    if code is op.BRANCH:
        return _ways_of_branch(argument[1])
    if code in (op.MAX_REPEAT, op.MIN_REPEAT):
        least, most, body = argument
        inner = _ways_of_sequence(body)
        if most == 1:
            return inner + int(least == 0)
        if inner > 1 or least > _LONGEST:
            raise _Unsafe("a repeat inside a repeat, or one longer than a name")
        return min(int(most), _PLACES)
    raise _Unsafe(_NAMES.get(code, f"the construct {code}"))


def _ways_of_branch(alternatives: Any) -> int:
    """Literal alternatives: as many as are one another's beginnings. Else the sum."""
    if all(code is op.LITERAL for sequence in alternatives for code, _ in sequence):
        words = ["".join(chr(argument) for _, argument in sequence) for sequence in alternatives]
        return max(sum(word.startswith(other) for other in words) for word in words)
    return sum(_ways_of_sequence(sequence) for sequence in alternatives)


_NAMES = {
    op.GROUPREF: "a back-reference",
    op.GROUPREF_EXISTS: "a conditional group",
    op.ASSERT: "a look-around",
    op.ASSERT_NOT: "a look-around",
    op.ATOMIC_GROUP: "an atomic group",
    op.POSSESSIVE_REPEAT: "a possessive repeat",
}
