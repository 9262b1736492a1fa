"""The ledger's tests notice a ledger that is wrong: bugs are put into a copy, and must be found."""

from __future__ import annotations

from pathlib import Path

import pytest
import seeded_bugs as seeds

ROOT = Path(__file__).parents[1]


def test_every_bug_can_be_put_in() -> None:
    assert len(seeds.BUGS) >= 30
    assert len({bug.name for bug in seeds.BUGS}) == len(seeds.BUGS)
    for bug in seeds.BUGS:
        source = (ROOT / "router" / bug.file).read_text("utf-8")
        assert source.count(bug.old) == 1, bug.name
        assert bug.new != bug.old
        compile(source.replace(bug.old, bug.new), bug.file, "exec")


def test_five_bugs_are_found_by_the_tests_of_one_file_each() -> None:
    bugs = [bug for bug in seeds.BUGS if bug.quick]
    assert len(bugs) == 5
    with seeds.copy_of_the_package() as place:
        for bug in bugs:
            with seeds.seeded(place, bug):
                passed, failed, _ = seeds.run_tests(place, [bug.quick], seed=0)
            assert not passed, bug.name
            assert failed


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("bug", seeds.BUGS, ids=lambda bug: bug.name)
def test_every_bug_is_found(bug) -> None:
    with seeds.copy_of_the_package() as place, seeds.seeded(place, bug):
        passed, _, _ = seeds.run_tests(place, list(seeds.TESTS), seed=0)
    assert not passed
