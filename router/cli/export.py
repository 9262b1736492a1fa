"""`router export STORE --out FOLDER`: a log as Parquet files, to be replayed at any size."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from router.cli.options import period, since_option, until_option
from router.cli.output import emit, json_option


@click.command("export")
@click.argument("store")
@click.option("--out", required=True, metavar="FOLDER",
              help="A new folder, or the URL of one (s3://…, gs://…; see fsspec).")  # fmt: skip
@since_option
@until_option
@json_option
def command(
    store: str, out: str, since: datetime | None, until: datetime | None, as_json: bool
) -> None:
    """Write the log of STORE as Parquet files, a folder a day, for `router replay`."""
    from router.ledger import open_log
    from router.ledger.url import store_url
    from router.replay.off_policy.export import export

    days = period(since, until)
    log = open_log(store_url(store))
    try:
        found = export(log, out, *days)
    finally:
        log.close()
    left = {name: count for name, count in asdict(found.left_out).items() if count}
    data = {"out": out, "rows": found.rows, "files": len(found.parts), "left_out": left}
    words = ", ".join(f"{count:,} {name}" for name, count in left.items())
    emit(
        data,
        as_json,
        lambda console: console.print(
            f"{found.rows:,} requests in {len(found.parts)} files"
            + (f"; left out: {words}" if words else "")
        ),
    )
