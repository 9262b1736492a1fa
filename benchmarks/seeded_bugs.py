"""Does the ledger's test suite notice when the ledger is wrong?

Each bug is one change of the ledger's own source, made in a copy of the package; the ledger's fast
tests and its state machine then run against that copy, and have to fail.

    python benchmarks/seeded_bugs.py [--only WORD] [--seed N]

Writes benchmarks/results/seeded_bugs.json. Exit code 1 if a bug survives.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stamp import ROOT, commit, machine

RESULTS = ROOT / "benchmarks" / "results" / "seeded_bugs.json"
# The quick ones first: the run ends with the first test that fails.
TESTS = (
    "test_ledger_money.py",
    "test_budget_kinds.py",
    "test_budget_changes.py",
    "test_ledger_rolling.py",
    "test_ledger_group_commit.py",
    "test_ledger_windows.py",
    "test_ledger_store.py",
    "test_ledger_permissions.py",
    "test_ledger_files.py",
    "test_ledger_model.py",
)


@dataclass(frozen=True)
class Bug:
    """`old`, which stands once in `file`, becomes `new`. `quick`: a test file that shows it."""

    name: str
    file: str
    old: str
    new: str
    quick: str = ""


MATCHING, WINDOWS, LEDGER, BUDGETS = (
    "ledger/matching.py", "ledger/windows.py", "ledger/ledger.py", "budgets.py",
)  # fmt: skip
STORE, STEPS, ACCOUNTS, DATABASE, FILES, SCHEMA, VERIFY = (
    f"ledger/sqlite/{name}.py"
    for name in ("store", "steps", "accounts", "database", "files", "schema", "verify")
)

BUGS = (
    # ── who pays, and how much ─────────────────────────────────────────────────────────────────
    Bug("a share counts every value's attempts as its own", MATCHING,
        "counts=budget.value in values", "counts=True"),
    Bug("a tag that is named twice pays twice", MATCHING,
        'tuple(dict.fromkeys(found)) or ("",)', 'tuple(found) or ("",)'),
    Bug("only the first condition of a budget is looked at", MATCHING,
        "for name, _ in budget.when\n", "for name, _ in budget.when[:1]\n"),
    Bug("a budget for answers pays for judges too", MATCHING,
        'if budget.purpose not in ("any", purpose):',
        'if budget.purpose not in ("any", "serve", purpose):'),
    Bug("who names no scope value pays nothing", MATCHING,
        "for value in values if budget.value in (None, value)",
        "for value in values if value and budget.value in (None, value)"),
    Bug("requests are counted in tokens", MATCHING,
        'return self.tokens if meter == "tokens" else self.requests',
        'return self.tokens if meter in ("tokens", "requests") else self.requests'),
    Bug("budgets are taken from in the order they were given", MATCHING,
        "for name in sorted(by_name)", "for name in by_name"),
    Bug("a limit of a share above the whole is accepted", MATCHING,
        'if budget.meter == "share" else (MAX_NANO, budget.meter)',
        'if budget.meter == "no" else (MAX_NANO, budget.meter)'),
    Bug("a share counts itself twice", BUDGETS,
        "limit * (seen + 1) // 1_000_000", "limit * (seen + 2) // 1_000_000"),
    Bug("what remains forgets what is held", BUDGETS,
        "- self.settled - self.held)", "- self.settled)"),
    Bug("any value fits a condition of '*', none too", BUDGETS,
        '"*" if value else None', '"*"'),
    Bug("a model's condition fits models that end alike", BUDGETS,
        'value.endswith(f"/{wanted}")', "value.endswith(wanted)"),
    # ── windows ────────────────────────────────────────────────────────────────────────────────
    Bug("days begin in UTC whatever the zone", WINDOWS,
        "local = datetime.fromtimestamp(now, zone)", "local = datetime.fromtimestamp(now, UTC)"),
    Bug("weeks begin on Sunday", WINDOWS, "days=8 - weekday", "days=7 - weekday"),
    Bug("a rolling window forgets its oldest bucket", WINDOWS,
        "max(0, bucket - ROLLING_BUCKETS)", "max(0, bucket - ROLLING_BUCKETS + 1)"),
    Bug("a rolling window counts a bucket too many", WINDOWS,
        "max(0, bucket - ROLLING_BUCKETS)", "max(0, bucket - ROLLING_BUCKETS - 1)"),
    Bug("a bucket is said to leave too early", WINDOWS,
        "(bucket + 1 + ROLLING_BUCKETS)", "(bucket + ROLLING_BUCKETS)"),
    # ── the ledger ─────────────────────────────────────────────────────────────────────────────
    Bug("a released attempt is billed as a request", LEDGER,
        "row, end, now, billed=False", "row, end, now, billed=True"),
    Bug("only the answer's tokens count", LEDGER,
        "for count in (row.input_tokens, row.output_tokens)", "for count in (row.output_tokens,)"),
    Bug("a second settlement at a lower cost is taken for a repetition", LEDGER,
        "elif found.booked != ending.usd:", "elif found.booked < ending.usd:",
        "test_ledger_money.py"),
    Bug("a repeated reservation may ask for less than it holds", LEDGER,
        "!= (amounts.usd, amounts.tokens):", "< (amounts.usd, amounts.tokens):"),
    Bug("a reservation that has ended is handed out again", LEDGER,
        'if known.state != "open":', 'if known.state == "expired":'),
    Bug("unlimited is set as a limit of zero", LEDGER, "UNLIMITED if limit is None else limit",
        "0 if limit is None else limit"),
    Bug("a share has no room for those that it does not limit", LEDGER,
        "accounts_of(self.enforced, scopes) if account.counts]",
        "accounts_of(self.enforced, scopes)]"),
    Bug("a settlement of another attempt is accepted", LEDGER,
        "elif (ending.request_id, ending.number) != (found.request_id, found.number):",
        "elif ending.request_id != found.request_id:"),
    Bug("the worst case in the log may cost less than is held", LEDGER,
        "if worst_case.cost != asked.amount and not",
        "if worst_case.cost is not None and worst_case.cost > asked.amount and not"),
    Bug("a refusal of a request that is open is accepted", LEDGER,
        "if status not in (None, row.status):", "if status is None and row.status is None:"),
    # ── one step of the store ──────────────────────────────────────────────────────────────────
    Bug("the last nano-dollar is not admitted", STEPS,
        "if used + take.amount > allowed(", "if used + take.amount >= allowed(",
        "test_ledger_money.py"),
    Bug("one nano-dollar too many is admitted", STEPS,
        "if used + take.amount > allowed(", "if used + take.amount - 1 > allowed("),
    Bug("what is held is not counted", STEPS,
        "used = account.settled + account.held", "used = account.settled"),
    Bug("only the first budget is asked", STEPS,
        "for position, (take, account) in enumerate(zip(new.takes, found, strict=True)):",
        "for position, (take, account) in enumerate([*zip(new.takes, found, strict=True)][:1]):",
        "test_ledger_money.py"),
    Bug("the policy's limit goes before the one that was set", STEPS,
        "limit = take.limit if account.limit is None else account.limit", "limit = take.limit"),
    Bug("a limit that was set to unlimited denies", STEPS,
        "limit is None or limit < 0:", "limit is None:"),
    Bug("an attempt is not seen", STEPS, "seen = seen + 1", "seen = seen"),
    Bug("a call that is reserved at nothing is never charged", STEPS,
        'if take.amount or take.meter != "share"', "if take.amount"),
    Bug("settling again books again", STEPS,
        "WHERE id = ? AND state = 'open' AND request_id = ? AND number = ?\n",
        "WHERE id = ? AND request_id = ? AND number = ?\n"),
    Bug("a release keeps the hold", STEPS,
        "rows.append((held.of(meter), change,",
        "rows.append((held.of(meter) if change else 0, change,"),
    Bug("an overrun is dropped", STEPS, "max(0, over), account))", "0, account))"),
    Bug("a bill above the reservation is cut to it", STEPS,
        "actual = Amounts(ending.usd, actual_tokens, requests)",
        "actual = Amounts(min(ending.usd, amount), actual_tokens, requests)"),
    Bug("a correction adds the bill to the charge", STEPS,
        "actual = Amounts(ending.usd - amount,", "actual = Amounts(ending.usd,"),
    Bug("an expiry charges nothing", STEPS,
        "held=whole, actual=whole, reserved=whole)",
        "held=whole, actual=Amounts(0, 0, 0), reserved=whole)", "test_ledger_money.py"),
    Bug("a reservation expires a moment late", STEPS,
        "{_OPEN} AND expires_at <= ?", "{_OPEN} AND expires_at < ?"),
    Bug("a sweep ends after the first transaction", STORE,
        "while expired == _EXPIRE_AT_ONCE:", "while False:"),
    Bug("a request between two attempts is taken for dead", STEPS,
        "AND reservation.expires_at > :now)",
        "AND reservation.expires_at > :now AND state = 'open')"),
    Bug("a reservation without a logged request stays", STEPS,
        'raise Undo(Invalid("a first attempt must bring its request\'s row"))',
        'return Invalid("a first attempt must bring its request\'s row")'),
    Bug("a settlement is not logged", STEPS,
        "    write_attempt(connection, ending.attempt)\n", ""),
    Bug("conditions are not written down", STEPS, "json.dumps(b.when)", "json.dumps(())"),
    Bug("the highest limit of a window falls with the limit", ACCOUNTS,
        "return max(limit, self.highest)", "return limit"),
    # ── accounts and windows in the store ──────────────────────────────────────────────────────
    Bug("a credit takes more than was settled", ACCOUNTS,
        "given = min(left, settled)", "given = left", "test_budget_changes.py"),
    Bug("a credit is not written into the account", ACCOUNTS,
        "credited = credited + ?", "credited = max(credited, ?)"),
    Bug("a credit is of the latest bucket alone", ACCOUNTS,
        "take.counted_since(latest), latest)", "latest, latest)"),
    Bug("all values' limit goes before one value's", ACCOUNTS,
        "ORDER BY override.scope_value IS NULL LIMIT 1",
        "ORDER BY override.scope_value IS NOT NULL LIMIT 1"),
    Bug("a new window forgets the limit that was set", ACCOUNTS,
        "            _override(connection, take),\n            take.budget",
        "            None,\n            take.budget"),
    Bug("a limit that is set is every budget's", ACCOUNTS,
        '        " WHERE budget = :budget",\n', '        " WHERE :budget = :budget",\n'),
    Bug("changing a limit resets usage", ACCOUNTS,
        '"UPDATE account"\n        f" SET override_n',
        '"UPDATE account"\n        f" SET settled = 0, override_n'),
    Bug("a limit that was set is never taken back", ACCOUNTS,
        '"DELETE FROM override WHERE budget = ? AND scope_value IS ?"',
        '"DELETE FROM override WHERE budget = ? AND scope_value = ?"'),
    Bug("time goes back to an earlier window", ACCOUNTS,
        "WHERE excluded.window_id > window_id", "WHERE excluded.window_id != window_id"),
    Bug("the sum of a rolling window misses its first bucket", ACCOUNTS,
        "AND window_id BETWEEN ? AND ?\n\"\"\"", "AND window_id > ? AND window_id <= ?\n\"\"\""),
    Bug("the sum of a rolling window is of all values", ACCOUNTS,
        "WHERE budget = ? AND scope_value = ? AND window_id BETWEEN",
        "WHERE budget = ? AND ? IS NOT NULL AND window_id BETWEEN"),
    Bug("an empty bucket is the next to leave", ACCOUNTS,
        "min(CASE WHEN settled + held > 0 THEN window_id END)", "min(window_id)"),
    # ── transactions ───────────────────────────────────────────────────────────────────────────
    Bug("one job's failure undoes the others'", DATABASE,
        "            except Exception:\n                pass\n",
        "            except Exception:\n                for job in jobs:\n"
        "                    job.done = True\n                return\n"),
    Bug("one job's failure is everybody's answer", DATABASE,
        "            except Exception:\n                pass\n",
        "            except Exception as error:\n                for job in jobs:\n"
        "                    job.done, job.error = True, error\n                return\n"),
    Bug("a job that is being done is reported as not done", DATABASE,
        "if not job.done and not self._is_under_way(job):", "if not job.done:"),
    Bug("what failed half-way is committed", DATABASE,
        "if self._connection.in_transaction:\n                self._connection.rollback()",
        "if self._connection.in_transaction:\n                self._connection.commit()"),
    Bug("a file that was swapped in use is written to", DATABASE,
        "if not self._writer.unchanged:", "if False:"),
    Bug("a swapped index of the log goes unnoticed", FILES,
        "main.st_ino, log.st_ino, index.st_ino", "main.st_ino, log.st_ino"),
    Bug("a new file is begun beside the log of a deleted one", FILES,
        "_refuse_others_log(file)\n            _publish", "_publish"),
    # ── the schema and its triggers ────────────────────────────────────────────────────────────
    Bug("overruns are not entered", SCHEMA, "WHEN new.actual > new.amount BEGIN", "WHEN 0 BEGIN"),
    Bug("a correction enters the whole bill", SCHEMA,
        "new.actual - coalesce(old.actual, 0)", "new.actual"),
    Bug("entries can be deleted", SCHEMA,
        "CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry\n"
        "  BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;\n", ""),
    Bug("sums that leave 64 bits become floats", SCHEMA,
        "CHECK (held >= 0 AND typeof(held) = 'integer')", "CHECK (held >= 0)"),
    # ── verify ─────────────────────────────────────────────────────────────────────────────────
    Bug("verify overlooks a limit that was passed", VERIFY,
        "settled + held > limit_n + overrun", "settled > limit_n + overrun AND held > limit_n"),
    Bug("verify overlooks a rolling limit that was passed", VERIFY,
        "HAVING sum(b.settled + b.held - b.overrun) > max(a.limit_n)", "HAVING 0"),
    Bug("verify overlooks a share that was passed", VERIFY,
        "THEN (settled + held) * 1000000 > limit_n * seen END", "THEN 0 END"),
    Bug("verify overlooks credits that nobody entered", VERIFY,
        "HAVING sum(a.credited) != coalesce(given, 0)", "HAVING 0"),
    Bug("verify overlooks costs that differ from the log's", VERIFY,
        "OR (r.state != 'open' AND coalesce(a.cost, 0) != r.actual)", ""),
)  # fmt: skip


@contextmanager
def copy_of_the_package() -> Iterator[Path]:
    """A folder with the package and its tests, compiled, which may be changed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        skip = shutil.ignore_patterns("__pycache__", "*.npy", "*.html")
        shutil.copytree(ROOT / "router", place / "router", ignore=skip)
        shutil.copytree(ROOT / "tests", place / "tests", ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", place)
        yield place


def run_tests(place: Path, tests: list[str], seed: int) -> tuple[bool, str, float]:
    """Whether the tests pass in `place`, the name of the first that fails, and the seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "--noconftest", "--tb=line",
            "-p", "no:cacheprovider", "-p", "tests.stores",
            "-k", "not postgres and not redis and not valkey",
            f"--hypothesis-seed={seed}", "--timeout=240",
            *(f"tests/{name}" for name in tests),
        ],
        cwd=place, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(place), "HYPOTHESIS_STORAGE_DIRECTORY":
             str(place / "hypothesis")},
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode not in (0, 1) or re.search(r"fixture '\w+' not found", done.stdout):
        raise RuntimeError(f"the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return done.returncode == 0, failed[1].rpartition("/")[2] if failed else "", seconds


@contextmanager
def seeded(place: Path, bug: Bug) -> Iterator[None]:
    """The copy with one bug in it."""
    path = place / "router" / bug.file
    sound = path.read_text("utf-8")
    if sound.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: {bug.file} has {bug.old!r} {sound.count(bug.old)} times")
    _write(path, sound.replace(bug.old, bug.new))
    try:
        yield
    finally:
        _write(path, sound)


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()  # it is told from its source by size and whole seconds alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="bugs with this in their name or file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bugs = [bug for bug in BUGS if options.only in bug.name or options.only in bug.file]
    rows: list[dict[str, Any]] = []
    with copy_of_the_package() as place:
        passed, failed, seconds = run_tests(place, list(TESTS), options.seed)
        if not passed:
            print(f"without any bug, {failed} fails")
            return 1
        print(f"sound: {seconds:.0f} s", flush=True)
        for bug in bugs:
            with seeded(place, bug):
                survived, caught_by, took = run_tests(place, list(TESTS), options.seed)
            rows.append(
                {
                    "bug": bug.name,
                    "file": bug.file,
                    "caught": not survived,
                    "by": caught_by,
                    "seconds": round(took, 1),
                }
            )
            print(f"{'SURVIVED' if survived else 'caught'}: {bug.name} ({caught_by})", flush=True)
    survivors = [row["bug"] for row in rows if not row["caught"]]
    if len(bugs) == len(BUGS):
        protocol = {
            "seed": options.seed,
            "commit": commit(),
            "machine": machine(),
            "tests": TESTS,
        }
        result = {"protocol": protocol, "bugs": len(rows), "survivors": survivors, "each": rows}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(rows) - len(survivors)} of {len(rows)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
