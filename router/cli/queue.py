"""`router queue`: the requests that wait for cheaper prices; the worker that sends them."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from router.cli.output import as_written, emit, json_option, print_table
from router.deferred.queue import Queue
from router.ledger.url import store_url

if TYPE_CHECKING:
    from rich.console import Console

    from router.deferred.queue import Ticket


@click.group("queue")
def command() -> None:
    """Work on the requests of a queue (router.submit), list them, cancel them.

    STORE is the SQLite file that they wait in, or its URL.
    """


@command.command()
@click.argument("store")
@click.option("--policy", default="default", show_default=True, help="A file or shipped policy.")
@click.option("--once", is_flag=True, help="Do what is due now, instead of all that waits.")
@click.option("--parallel", type=click.IntRange(1, 256), default=8, show_default=True,
              help="Calls at the same time.")  # fmt: skip
@click.option("--poll", type=click.FloatRange(0.01), default=60.0, show_default=True,
              help="Seconds between two looks at a batch.")  # fmt: skip
@json_option
def run(store: str, policy: str, once: bool, parallel: int, poll: float, as_json: bool) -> None:
    """Send what is due, see to batches, and go on until nothing waits any more.

    STORE is also where budgets and the log are; a policy with deferred: {queue: …} has its requests
    in that file. Several workers may run at once. One that is killed loses nothing: the next one
    takes over. Exit code 1 where a request failed.
    """
    from router.pipeline import Router

    with Router(policy, store=store_url(store)) as router:
        work = router.work_queue(forever=not once, parallel=parallel, poll=poll)
        waiting = sum(each.state in _OPEN for each in router.tickets())
    done = {**asdict(work), "waiting": waiting}
    said = f"{work.answered} answered, {work.failed} failed, {waiting} waiting"
    emit(done, as_json, lambda out: out.print(said))
    if work.failed:
        sys.exit(1)


@command.command("list")
@click.argument("store")
@json_option
def list_them(store: str, as_json: bool) -> None:
    """List the requests of a queue: state, deadline, and why they wait or failed. No text."""
    queue = Queue(store_url(store), create=False)
    try:
        tickets = queue.tickets()
    finally:
        queue.close()
    emit([_facts(each) for each in tickets], as_json, lambda out: _render(out, tickets))


@command.command()
@click.argument("store")
@click.argument("ticket")
@json_option
def cancel(store: str, ticket: str, as_json: bool) -> None:
    """Cancel a request that waits; of one in a batch, the batch's line may still be billed.

    Exit code 1 where it is not known, or it is too late.
    """
    queue = Queue(store_url(store), create=False)
    try:
        found = queue.cancel(ticket, time.time())
    finally:
        queue.close()
    state = "unknown" if found is None else found.state
    done = state in ("waiting", "batched")
    said = f"{ticket}: cancelled" if done else f"{ticket}: not cancelled, it is {state}"
    emit(
        {"ticket": ticket, "cancelled": done, "was": state},
        as_json,
        lambda out: out.print(said, markup=False),
    )
    if not done:
        sys.exit(1)


_OPEN = ("waiting", "sending", "batched")


def _facts(ticket: Ticket) -> dict[str, Any]:
    return {
        "ticket": ticket.id,
        "state": ticket.state,
        "submitted": ticket.submitted,
        "deadline": ticket.deadline,
        "due": ticket.due if ticket.state == "waiting" else None,
        "request_id": ticket.request_id,
        "kind": ticket.kind,
        "why": ticket.why,
    }


def _render(out: Console, tickets: list[Ticket]) -> None:
    table = Table("ticket", "state", "deadline", "why", box=None)
    for each in tickets:
        deadline = f"{datetime.fromtimestamp(each.deadline, UTC):%Y-%m-%d %H:%M} UTC"
        why = ": ".join(filter(None, (each.kind, each.why)))
        table.add_row(each.id, each.state, deadline, as_written(why))
    if tickets:
        print_table(out, table)
    else:
        out.print("nothing is in the queue")
