"""`adapt completion`: prints the script that teaches a shell to complete this command. Installs nothing."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    Put it where your shell reads it:

    \b
      bash   adapt completion bash > ~/.local/share/bash-completion/completions/adapt
      zsh    adapt completion zsh > "${fpath[1]}/_adapt"
      fish   adapt completion fish > ~/.config/fish/completions/adapt.fish

    \b
    Example:
      $ adapt completion zsh
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None  # click.Choice admits only shells that click knows
    click.echo(script(context.find_root().command, {}, "adapt", "_ADAPT_COMPLETE").source())
