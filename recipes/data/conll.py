"""CoNLL files: one token a line, columns separated by spaces or tabs, sentences by blank lines.

`-DOCSTART-` lines separate like blank ones; before a sentence `# key = value`, `# newdoc` and `# newpar` are comments. Token
i of an example stands on line `example.line + i`. Does not check labels.
"""

from __future__ import annotations

import re
from pathlib import Path

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Example
from adapthub.recipes.data.text import read_text

_COMMENT = re.compile(r"# (.*=|new(doc|par)\s*$)")  # the second are CoNLL-U's
_SPACES = re.compile(r"[ \t]+")  # not \s: a no-break or ideographic space can be part of a token


def read_conll(
    path: Path, *, encoding: str = "utf-8", token_column: int = 0, label_column: int = -1
) -> tuple[Example, ...]:
    """Examples with fields `tokens` and `labels`, equally long lists of str. InvalidData names file and line.

    Columns count from 0, negative ones from the end. A file whose first token line has a tab is split at tabs
    only.
    """
    examples: list[Example] = []
    tokens: list[str] = []
    labels: list[str] = []
    width = 0
    tabs: bool | None = None
    for number, raw in enumerate([*read_text(path, encoding).split("\n"), ""], start=1):
        line = raw.rstrip("\r")  # two, where a file with CRLF was written as a text once more
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            if tokens:
                examples.append(
                    Example(
                        {"tokens": tokens, "labels": labels}, str(path), number - len(tokens), spread=True
                    )
                )
                tokens, labels = [], []
            continue
        if not tokens and _COMMENT.match(line):
            continue
        tabs = "\t" in line if tabs is None else tabs
        cells = _cells(line, tabs=tabs)
        if len(cells) != width or not (cells[token_column] and cells[label_column]):
            width = width or len(cells)
            _check_columns(cells, width, f"{path}:{number}", token_column, label_column)
        tokens.append(cells[token_column])
        labels.append(cells[label_column])
    if not examples:
        raise InvalidData(f"{path}: no sentence in the file", hint="Expected one token and its label a line.")
    return tuple(examples)


def _cells(line: str, *, tabs: bool) -> list[str]:
    if tabs:
        return [cell.strip() for cell in line.split("\t")]
    cells = line.split(" ")  # which is much faster, and of most files all
    return cells if "" not in cells and "\t" not in line else _SPACES.split(line.strip(" \t"))


def _check_columns(cells: list[str], width: int, where: str, token_column: int, label_column: int) -> None:
    if len(cells) < 2:
        raise InvalidData(
            f"{where}: one column ({cells[0]!r}) where a token and a label are expected",
            hint="Separate them by a space or a tab; sentences by a blank line.",
        )
    if len(cells) != width:
        raise InvalidData(
            f"{where}: {len(cells)} columns where the lines before have {width}",
            hint="Give every token the same columns, or separate columns by tabs.",
        )
    for role, column in (("token", token_column), ("label", label_column)):
        if not -width <= column < width:
            raise InvalidData(
                f"{where}: no {role} column {column}: the file has {width} columns, 0 to {width - 1}",
                hint=f"Set {role}_column.",
            )
        if not cells[column]:
            raise InvalidData(f"{where}: the {role} is empty", hint="Give every line a token and a label.")
