"""`router drift`: what is watched in a store, and the alarms that are open; accepting them."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from router.cli.output import emit, json_option, print_table
from router.drift.quantities import said, title, typical
from router.drift.record import ALARMS, TESTS, Alarms, Watch, moment
from router.drift.watcher import accept as accept_alarms
from router.drift.watcher import answered
from router.errors import ConfigurationError
from router.ledger import open_ledger
from router.ledger.url import store_url

if TYPE_CHECKING:
    from router.log import Log


class _Group(click.Group):
    """`router drift STORE` is short for `router drift show STORE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Group)
def command() -> None:
    """Show what a policy's `drift` watches in STORE (a URL or a file), or accept its alarms.

    `router drift STORE` is short for `router drift show STORE`.
    """


@command.command()
@click.argument("store")
@json_option
def show(store: str, as_json: bool) -> None:
    """Show each watched quantity of STORE: its reference, now, the evidence of a change.

    Exit code 1 while an alarm is open.
    """
    ledger = open_ledger(store_url(store), create=False)
    try:
        policies = watched_policies(ledger.log())
    finally:
        ledger.close()

    def render(out: Console) -> None:
        if not policies:
            out.print("Nothing is watched here: no policy with `drift` has used this store.")
        for each in policies:
            _render(each, out)

    emit({"policies": policies}, as_json, render)
    sys.exit(1 if any(each["open"] for each in policies) else 0)


@command.command()
@click.argument("store")
@click.option("--policy", help="The policy's name, where the store knows several.")
@click.option("--by", default="", help="Who accepts.")
@click.option("--note", default="", help="Why.")
@json_option
def accept(store: str, policy: str | None, by: str, note: str, as_json: bool) -> None:
    """Take what is now for the reference: STORE's alarms are closed, its tests begin anew.

    Running processes follow within about a minute.
    """
    ledger = open_ledger(store_url(store), create=False)
    try:
        log = ledger.log()
        name = _the_policy(log, policy)
        closed = accept_alarms(log, name, time.time(), by, note)
    finally:
        ledger.close()

    def render(out: Console) -> None:
        for alarm in closed:
            out.print(f"accepted: {alarm.text}", markup=False)
        out.print(f"The tests of policy {name} begin anew.", markup=False)

    emit({"policy": name, "accepted": [asdict(alarm) for alarm in closed]}, as_json, render)


def watched_policies(log: Log) -> list[dict[str, Any]]:
    """What is known of drift under each policy, by the log as it is now; nothing is written."""
    kept, found = log.memos(TESTS), log.memos(ALARMS)
    alarms = {name.removeprefix(ALARMS): Alarms.from_json(m.value) for name, m in found.items()}
    watches: dict[str, Watch] = {}
    for memo in kept.values():
        watch = Watch.from_json(memo.value)
        name = "" if watch is None else watch.stamp.rpartition("@")[0]
        known = watches.get(name)
        if watch is not None and (known is None or watch.began > known.began):
            watches[name] = watch
    return [
        _facts(name, watches.get(name), alarms.get(name, Alarms()), log)
        for name in sorted({*alarms, *watches})
    ]


def _facts(name: str, watch: Watch | None, alarms: Alarms, log: Log) -> dict[str, Any]:
    is_open = {alarm.name: alarm for alarm in alarms.open}
    quantities = []
    if watch is not None and watch.round == alarms.round:
        watch.read(answered(log, watch.since), time.time(), frozenset(is_open))
        evidence = watch.streams.evidence.tolist()
        for at, quantity in enumerate(watch.names):
            streams = watch.streams
            quantities.append(
                {
                    "name": quantity,
                    "values": int(streams.counts[at].sum()),
                    "reference": typical(quantity, streams.reference[at]),
                    "now": typical(quantity, streams.recent[at]),
                    "evidence": evidence[at],
                    "needed": watch.needed,
                    "alarm": quantity in is_open,
                    "has_reference": bool(streams.counts[at].sum() >= watch.reference),
                }
            )
    return {
        "policy": name,
        "stamp": None if watch is None else watch.stamp,
        "began": None if watch is None else watch.began,
        "reference": None if watch is None else watch.reference,
        "alpha": None if watch is None else watch.alpha,
        "price_book": None if watch is None or watch.prices is None else watch.prices["book"],
        "open": [asdict(alarm) | {"text": alarm.text} for alarm in alarms.open],
        "quantities": quantities,
        "history": list(alarms.history),
    }


def _render(facts: dict[str, Any], out: Console) -> None:
    out.print(f"Policy {facts['policy']}", style="bold", markup=False)
    for alarm in facts["open"]:
        out.print(f"ALARM: {alarm['text']}", style="red", markup=False)
    if not facts["quantities"]:
        out.print("Its tests begin anew with its next requests.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="bold")
    for column in ("values", "reference", "now", "evidence", "alarm at"):
        table.add_column(column, justify="right")
    for each in facts["quantities"]:
        tested = each["has_reference"]
        evidence = f"{each['evidence']:.3g}" if tested else f"from {facts['reference']:,} values on"
        table.add_row(
            title(each["name"]),
            f"{each['values']:,}",
            said(each["name"], each["reference"]),
            said(each["name"], each["now"]),
            "ALARM" if each["alarm"] else evidence,
            f"{each['needed']:,.0f}",
        )
    print_table(out, table)
    out.print(
        f"[dim]Since {moment(facts['began'])}, at price book {facts['price_book']}. As long as "
        f"nothing changes, an alarm is ever raised with a probability of {facts['alpha']:g} at "
        "most.[/]"
    )


def _the_policy(log: Log, asked: str | None) -> str:
    names = sorted(
        {name.removeprefix(ALARMS) for name in log.memos(ALARMS)}
        | {name.removeprefix(TESTS).rpartition("@")[0] for name in log.memos(TESTS)}
    )
    if asked is None and len(names) == 1:
        return names[0]
    if asked in names and asked is not None:
        return asked
    if not names:
        raise ConfigurationError(
            "nothing is watched here: no policy with drift has used this store"
        )
    raise ConfigurationError(
        f"policy {asked!r} is not watched here; allowed: --policy with one of {', '.join(names)}"
    )
