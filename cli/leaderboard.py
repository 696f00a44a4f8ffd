"""`adapt hub leaderboard`: adapters of one base compared on the very same rows. `hub/leaderboard` ranks; this lays out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import data_options
from adapthub.cli.output import json_option, show_json, show_table

if TYPE_CHECKING:
    from adapthub.hub.leaderboard import Ranking, Standing


@click.command()
@click.option("--base", help="The base model's id, or the beginning of its fingerprint.")
@click.option("--task", help="The task, such as token-classification.")
@click.option("--dataset", help="The fingerprint of the rows that were measured, or its beginning.")
@click.option("--metric", help="What to rank by. Default: the first that was measured, by name.")
@data_options
@json_option
def leaderboard(
    base: str | None,
    task: str | None,
    dataset: str | None,
    metric: str | None,
    data: Path | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Rank adapters of one base that were measured on the same rows.

    Where several leaderboards fit, they are listed. Adapters share a rank where the 95 % intervals say that none of those
    above is certainly better; ties counts the others whose interval overlaps. What was measured on other rows is on
    another leaderboard.

    \b
    Example:
      $ adapt hub leaderboard
      $ adapt hub leaderboard --task token-classification --metric f1
    """
    from adapthub.hub import leaderboard as boards
    from adapthub.hub.access import Caller
    from adapthub.hub.documents import board_record, ranking_record

    everyone = Caller(alone=True)
    with hub_database(data, database).reading() as session:
        found = boards.boards(session, everyone, base=base, task=task, dataset=dataset)
        if len(found) != 1:
            records = [board_record(board) for board in found]
            ranking = None
        else:
            ranking = boards.ranking(session, everyone, base=base, task=task, dataset=dataset, metric=metric)
    if ranking is None:
        if as_json:
            show_json(records)
            return
        rows = [
            {**record, "base": record["base_id"], "dataset": record["dataset"][:19]} for record in records
        ]
        columns = ("base", "task", "source", "rows", "dataset", "metrics")
        show_table(rows, columns, empty="Nothing was measured so.")
    elif as_json:
        show_json(ranking_record(ranking))
    else:
        _show(ranking)


def _show(ranking: Ranking) -> None:
    board = ranking.board
    source = board.source or "rows"
    click.echo(f"{board.base_id}, {board.task}, {board.rows} rows of {source} ({board.dataset[:19]})")
    rows = [_row(one, ranking.metric) for one in ranking.standings]
    show_table(rows, ("rank", "adapter", ranking.metric, "ties", "n"))
    if ranking.unlike:
        click.echo(ranking.unlike)
    if ranking.cut:
        click.echo(f"There are more; the first {len(rows)} are shown.")


def _row(one: Standing, metric: str) -> dict[str, object]:
    known = one.low is not None and one.high is not None
    interval = f" [{one.low:.3f}, {one.high:.3f}]" if known else ""
    return {
        "rank": one.rank,
        "adapter": f"{one.name}@v{one.number}",
        metric: f"{one.value:.3f}{interval}",
        "ties": one.ties,
        "n": one.n,
    }
