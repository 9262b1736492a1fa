"""What is kept beside a log, in every store: under a name, and never over what another wrote."""

from __future__ import annotations

from contextlib import closing

from tests.stores import FreshStore


def test_a_memo_is_kept_read_back_and_found_by_its_beginning(store: FreshStore) -> None:
    with closing(store.open()) as ledger:
        log = ledger.log()
        assert log.memos("") == {}
        assert log.keep("a/1", {"x": [1.5, None, "ü"]}, 0)
        assert log.keep("a/2", 2, 0)
        assert log.keep("b", 3, 0)
        assert {name: memo.value for name, memo in log.memos("a/").items()} == {
            "a/1": {"x": [1.5, None, "ü"]},
            "a/2": 2,
        }
        assert log.memos("a/1")["a/1"].version == 1


def test_a_memo_is_never_written_over_what_was_not_read(store: FreshStore) -> None:
    with closing(store.open()) as ledger, closing(store.open()) as other:
        assert ledger.log().keep("name", "first", 0)
        assert not other.log().keep("name", "second", 0)
        assert other.log().keep("name", "second", 1)
        assert not ledger.log().keep("name", "third", 1)
        memo = ledger.log().memos("name")["name"]
        assert (memo.value, memo.version) == ("second", 2)


def test_a_memo_outlives_its_ledger(store: FreshStore) -> None:
    with closing(store.open()) as ledger:
        assert ledger.log().keep("name", {"kept": True}, 0)
    with closing(store.open()) as ledger:
        assert ledger.log().memos("name")["name"].value == {"kept": True}
