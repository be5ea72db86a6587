"""The command line: one file per command, each read only when it is the one that is asked for.

Data goes to stdout and messages to stderr. Exit codes: 0 done, 1 refused (one line says why), 2 a command line that
makes no sense, 130 interrupted.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from wwwmarket import __version__
from wwwmarket.cli.output import fail
from wwwmarket.cli.settings import check_settings, read_settings
from wwwmarket.domain.errors import Refusal


class Command(NamedTuple):
    """Where a command lives. ``target`` is "module:attribute": a ``typer.Typer`` of sub-commands, or one function."""

    target: str
    help: str


COMMANDS: Final[dict[str, Command]] = {
    "demo": Command("wwwmarket.cli.demo:demo", "Run a whole market on this machine, and audit it."),
    "node": Command("wwwmarket.cli.node:app", "Run a node that founds a market or joins one; manage its API keys."),
    "mirror": Command("wwwmarket.cli.mirror:app", "Replay, store and cosign a market's ledger; sign its decrees."),
    "provider": Command("wwwmarket.cli.provider:app", "Sell an engine's idle capacity; see how it goes; leave."),
    "bid": Command("wwwmarket.cli.bid:bid", "Buy one answer at auction."),
    "chat": Command("wwwmarket.cli.chat:chat", "Talk to a model, each answer bought at auction."),
    "explain": Command("wwwmarket.cli.explain:explain", "Show why an award went where it went."),
    "account": Command("wwwmarket.cli.account:app", "Show what an account has, and say whose keys act for it."),
    "ledger": Command("wwwmarket.cli.ledger:app", "Export the ledger's files; show its entries; get proofs."),
    "verify": Command("wwwmarket.cli.verify:verify", "Check the proof of one entry or balance, offline."),
    "tab": Command("wwwmarket.cli.tab:app", "Tabs: whether an answer bought under one was paid."),
    "audit": Command("wwwmarket.cli.audit:audit", "Check a whole ledger, trusting nobody."),
    "simulate": Command(
        "wwwmarket.cli.simulate:simulate", "Simulate a market and its rivals, on one clock and one seed."
    ),
    "experiment": Command(
        "wwwmarket.cli.experiment:experiment", "Measure the market against its rivals; tables and plots."
    ),
    "doctor": Command("wwwmarket.cli.doctor:doctor", "Look for what could keep a provider from earning."),
    "keys": Command("wwwmarket.cli.keys:app", "Make, show, back up and restore the keys that you sign with."),
}
"""In the order in which ``--help`` shows them."""


class _Deferred(TyperCommand):
    """Stands for a command in lists and completions; becomes the real one when its own arguments are to be read."""

    def __init__(self, name: str, command: Command) -> None:
        super().__init__(name, help=command.help)
        self._target = command.target

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        command = load(self._target)
        settings = (parent.default_map or {}).get(self.name) if parent is not None else None
        if settings is not None:
            check_settings(command, settings, str(self.name))
        return command.make_context(info_name, args, parent=parent, **extra)


class _Commands(TyperGroup):
    """The group of all commands, whose listing imports none of them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: _Deferred(name, command) for name, command in COMMANDS.items()}


def load(target: str) -> Any:
    """The command at ``target`` ("module:attribute"), imported now."""
    module, _, attribute = target.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return get_group(found)
    alone = typer.Typer(add_completion=False)
    alone.command()(found)
    return get_command(alone)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if asked:
        typer.echo(f"wwwmarket {__version__}")
        raise typer.Exit


def _read_settings(context: typer.Context, file: Path | None) -> None:
    context.default_map = read_settings(file)


@app.callback()
def _options(
    *,
    _settings: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Options from this TOML file, a table for each command; else from config.toml of your user.",
            envvar="WWWMARKET_CONFIG",
            callback=_read_settings,
            is_eager=True,
            metavar="FILE",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """An open market for LLM inference that nobody owns."""


def main() -> None:
    """Run the command line, and leave the process with its exit code."""
    try:
        try:
            app(prog_name="wwwmarket")
        finally:
            sys.stdout.flush()
    except Refusal as refusal:
        fail(refusal.message)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader left (`| head`). What is still buffered must not be written, or the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
