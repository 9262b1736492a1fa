"""The `router` command. Exit codes: 0 good, 1 the thing asked failed, 2 wrong usage."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from router.cli.output import fail, make_printable
from router.errors import RouterError

# Each command's module loads when it is called: `router --help` stays fast.
_COMMANDS = {
    "budget": "router.cli.budget",
    "chat": "router.cli.chat",
    "demo": "router.cli.demo",
    "drift": "router.cli.drift",
    "evaluate": "router.cli.evaluate",
    "export": "router.cli.export",
    "explain": "router.cli.explain",
    "import": "router.cli.import_log",
    "judge": "router.cli.judge",
    "ledger": "router.cli.ledger",
    "policy": "router.cli.policy",
    "prices": "router.cli.prices",
    "queue": "router.cli.queue",
    "replay": "router.cli.replay",
    "report": "router.cli.report",
    "train": "router.cli.train",
    "tune": "router.cli.tune",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tiered-router")
def cli() -> None:
    """Route chat requests to the cheapest model tier that answers them well, under a budget."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; a RouterError becomes one clear line and exit code 1."""
    make_printable()
    try:
        cli.main(args=args, standalone_mode=True)
    except RouterError as error:
        sys.exit(fail(error, as_json="--json" in (sys.argv[1:] if args is None else args)))
    except OSError as error:  # a full disk, say
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
