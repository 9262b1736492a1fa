"""A store that can be cut off, for one process or for many, and ledgers over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router.errors import LedgerUnavailable
from router.ledger import _open_store
from router.ledger.lease import LeasedLedger
from router.ledger.ledger import BudgetLedger
from router.ledger.outage import OutageLedger
from router.ledger.place import identity, journal_folder
from router.ledger.url import store_url
from router.types import Budget


class CutStore:
    """A store that raises `LedgerUnavailable` while the file `cut` exists.

    `lose_replies` makes that many of its next steps succeed and lose their answer.
    """

    def __init__(self, place: str | Path, cut: Path):
        self._store = _open_store(store_url(str(place)), "normal", 60.0, create=True)
        self._cut = cut
        self.name = self._store.name
        self.lose_replies = 0
        self.steps: list[str] = []

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._store, name)

        def passed(*arguments: Any) -> Any:
            if self._cut.exists() and name != "close":
                raise LedgerUnavailable(self.name, "the network is cut")
            self.steps.append(name)
            answer = step(*arguments)
            if self.lose_replies and name != "close":
                self.lose_replies -= 1
                raise LedgerUnavailable(self.name, "the reply was lost", in_doubt=True)
            return answer

        return passed


def outage(
    place: str | Path, cut: Path, budgets: Sequence[Budget], *, on_outage: Any = "deny"
) -> OutageLedger:
    direct = BudgetLedger(CutStore(place, cut), budgets)
    url = store_url(str(place))
    return OutageLedger(
        direct, journals=journal_folder(url), identity=identity(url) or "", on_outage=on_outage
    )


def leased(
    place: str | Path,
    cut: Path,
    budgets: Sequence[Budget],
    *,
    on_outage: Any = "deny",
    seconds: float = 60.0,
    flush_seconds: float = 0.05,
) -> LeasedLedger:
    """`flush_seconds` of an hour leaves flushing to the test."""
    return LeasedLedger(
        outage(place, cut, budgets, on_outage=on_outage),
        seconds=seconds,
        go_on=on_outage == "lease",
        flush_seconds=flush_seconds,
    )


def store_of(ledger: Any) -> CutStore:
    """The store beneath a ledger."""
    while hasattr(ledger, "inner"):
        ledger = ledger.inner
    store: CutStore = ledger.store
    return store


def journals(place: str | Path) -> list[Path]:
    folder = journal_folder(store_url(str(place)))
    return [] if folder is None else sorted(folder.glob("*.journal"))
