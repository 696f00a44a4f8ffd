"""The algebra of adapters: `0.7*acme/tone@prod + 0.3*acme/law`.

An expression is a weighted sum of adapters. One name alone has weight 1. Weights may be negative (task negation), never
zero, infinite or NaN. Names are not resolved here: what stands for a name is kept as written.

    expression = term (("+" | "-") term)*
    term       = [number "*"] name
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from adapthub.adapters.errors import InvalidExpression

_MAX_TERMS = 16
# A sign joins terms only where white space surrounds it, so that names and paths may contain "-" and "+".
_JOINT = re.compile(r"\s+([+-])\s+")
_WEIGHTED = re.compile(r"([+-]?\s*[^*\s]+)\s*\*\s*(.+)", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """One adapter and its weight in a sum."""

    weight: float
    name: str


@dataclass(frozen=True)
class Expression:
    """A weighted sum of one or more adapters, each named once."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        if len(self.terms) == 1 and self.terms[0].weight == 1:
            return self.terms[0].name
        return " + ".join(f"{term.weight:g}*{term.name}" for term in self.terms)


def parse_expression(text: str) -> Expression:
    """Parse `text`; raise InvalidExpression naming the part that is wrong."""
    pieces = _JOINT.split(text.strip())
    if not pieces[0]:
        raise InvalidExpression("empty expression", hint="Write a name, or 0.7*first + 0.3*second.")
    terms = [_parse_term(pieces[0], "+", text)]
    terms += [_parse_term(piece, sign, text) for sign, piece in zip(pieces[1::2], pieces[2::2], strict=True)]
    if len(terms) > _MAX_TERMS:
        raise InvalidExpression(f"{len(terms)} terms in an expression; at most {_MAX_TERMS} are summed")
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise InvalidExpression(f"{name!r} stands twice in {text!r}", hint="Add its weights up.")
    return Expression(tuple(terms))


def _parse_term(piece: str, sign: str, text: str) -> Term:
    weighted = _WEIGHTED.fullmatch(piece)
    number, name = weighted.groups() if weighted else ("1", piece)
    try:
        weight = float(number.replace(" ", ""))
    except ValueError:
        raise InvalidExpression(f"{number!r} is not a number in {text!r}", hint="Write 0.7*name.") from None
    if not math.isfinite(weight) or weight == 0:
        raise InvalidExpression(f"weight {number} in {text!r}", hint="A weight is finite and not zero.")
    name = name.strip()
    if not name or re.search(r"[\s*]", name):
        raise InvalidExpression(f"{name!r} is not a name in {text!r}", hint="Join terms with ' + ' or ' - '.")
    return Term(-weight if sign == "-" else weight, name)
