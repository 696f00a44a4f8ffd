"""The command `adapt`: finds a command's module by name, runs it, and turns a failure into a line and a code.

Does not import a command before it is asked for, and does not know what any of them does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from adapthub.adapters.suggest import did_you_mean
from adapthub.cli.failures import EXPECTED, report, report_unexpected

COMMANDS = {
    "train": "train:train",
    "plan": "plan:plan",
    "sweep": "sweep:sweep",
    "eval": "evaluate:evaluate",
    "compare": "compare:compare",
    "certify": "certify:certify",
    "push": "publish:push",
    "pull": "publish:pull",
    "promote": "publish:promote",
    "rollback": "publish:rollback",
    "list": "browse:list_adapters",
    "search": "browse:search",
    "show": "browse:show",
    "login": "login:login",
    "logout": "login:logout",
    "whoami": "login:whoami",
    "diff": "diff:diff",
    "lineage": "lineage:lineage",
    "key": "key:key",
    "sign": "sign:sign",
    "verify": "sign:verify",
    "base": "base:base",
    "run": "run:run",
    "serve": "serve:serve",
    "recipes": "catalogue:recipes",
    "methods": "catalogue:methods",
    "samples": "samples:samples",
    "feedback": "feedback:feedback",
    "doctor": "doctor:doctor",
    "tenant": "tenant:tenant",
    "hub": "hub:hub",
    "demo": "demo:demo",
    "completion": "completion:completion",
}


class Door(click.Group):
    """A group whose commands are imported when they are named, and whose failures are one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, attribute = where.split(":")
        command: click.Command = getattr(import_module(f"adapthub.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(
                f"No such command {name!r}. {did_you_mean(name, COMMANDS) or ''}".rstrip(), ctx
            )
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and leave by SystemExit, with the exit codes of `failures`.

        What is not EXPECTED goes to `sys.excepthook`, which prints one line; the code is then 1.
        """
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        sys.excepthook = report_unexpected
        try:
            status = super().main(args, prog_name or "adapt", complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except EXPECTED as error:
            status = report(error)
        sys.exit(status)


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="adapthub", message="adapt %(version)s")
def adapt() -> None:
    """Train, publish, pull and mix adapters over one quantised base model.

    \b
    Example:
      $ adapt doctor
      $ adapt train --help
    """


if __name__ == "__main__":
    adapt()
