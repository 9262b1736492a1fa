"""Reading recorded outcomes: what is kept, what is averaged, and what every mistake is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import ConfigurationError, OutcomeFileError
from router.prices.book import load_book
from router.replay.recorded.ladder import parse_ladder
from router.replay.recorded.outcomes import read_outcomes
from router.replay.recorded.prompts import group_of, messages_of
from tests.replay_kit import ladder_of, make_rows, outcomes_of, write_jsonl, write_parquet

TWO = ("nano", "frontier")
NOW = 1.8e9


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_ladder_is_read_in_the_order_of_tiers() -> None:
    assert list(parse_ladder("frontier=b=1, nano=org/a").items()) == [
        ("nano", "org/a"),
        ("frontier", "b=1"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nano=a,frontier", "'frontier' is not TIER=MODEL"),
        ("nano=,frontier=b", "'nano=' is not TIER=MODEL"),
        ("nano=a,micro=c,frontier=b", "no tier 'micro'; the tiers are nano, mini, mid, frontier"),
        ("nano=a,nano=c,frontier=b", "tier nano stands twice"),
        ("nano=a,frontier=a", "model 'a' stands for two tiers"),
        ("nano=a,mini=b", "frontier=MODEL is missing"),
        ("frontier=a", "at least two tiers"),
    ],
)
def test_a_wrong_ladder_says_which_part_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_ladder(text)


def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "o.jsonl", make_rows(12, TWO))
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))
    found, same = (read_outcomes(path, ladder_of(TWO)) for path in (marked, plain))
    assert found.messages == same.messages
    assert found.score.tobytes() == same.score.tobytes()


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_both_formats_give_the_same_arrays(tmp_path: Path, write: Any) -> None:
    rows = make_rows(12, TWO)
    suffix = "jsonl" if write is write_jsonl else "parquet"
    found = read_outcomes(write(tmp_path / f"o.{suffix}", rows), ladder_of(TWO))
    assert found.query_id.tolist() == [f"q{i}" for i in range(12)]
    assert found.messages[3] == tuple(say(rows[6]["prompt"]))
    assert found.columns == [0, 3]
    assert found.score[:, 3].tolist() == [row["score"] for row in rows[1::2]]
    assert found.cost_usd[:, 0].tolist() == [row["cost_usd"] for row in rows[0::2]]
    assert np.isnan(found.score[:, 1:3]).all()
    assert found.cost_source == {"nano": "recorded", "frontier": "recorded"}


def test_repeated_answers_are_averaged_and_unknown_ones_do_not_count(tmp_path: Path) -> None:
    rows = make_rows(1, TWO)
    again = {**rows[0], "score": 0.0, "cost_usd": None}
    rows[0]["score"], third = 1.0, {**rows[0], "score": 0.5, "cost_usd": 3.0}
    rows[0]["cost_usd"] = 1.0
    found = outcomes_of(tmp_path, [*rows, again, third])
    assert found.score[0, 0] == 0.5
    assert found.cost_usd[0, 0] == 2.0


def test_a_query_that_a_tier_did_not_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = make_rows(5, TWO)
    found = outcomes_of(tmp_path, rows[:-1])
    assert len(found) == 4
    assert found.dropped["queries_without_every_tier"] == 1


def test_contaminated_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{**row, "contaminated": row["query_id"] == "q1"} for row in make_rows(4, TWO)]
    found = outcomes_of(tmp_path, rows)
    assert found.query_id.tolist() == ["q0", "q2", "q3"]
    assert found.dropped["rows_contaminated"] == 2


def test_a_row_that_is_marked_by_a_number_is_left_out_too(tmp_path: Path) -> None:
    rows = [{**row, "contaminated": int(row["query_id"] == "q1")} for row in make_rows(4, TWO)]
    found = outcomes_of(tmp_path, rows)
    assert (len(found), found.dropped["rows_contaminated"]) == (3, 2)


def test_a_row_whose_model_is_no_text_is_of_no_models_of_the_ladder(tmp_path: Path) -> None:
    rows = make_rows(4, TWO)
    file = write_jsonl(tmp_path / "o.jsonl", [*rows, {**rows[0], "model": ["tiny-1"]}])
    assert len(read_outcomes(file, ladder_of(TWO))) == 4


def test_reasoning_is_billed_once_whether_counted_within_output_or_apart(tmp_path: Path) -> None:
    rows = make_rows(2, TWO)
    for row, output, reasoning in zip(rows, (100, 100, 50, 40), (30, 300, 20, 50), strict=True):
        row["output_tokens"], row["reasoning_tokens"] = output, reasoning
    found = outcomes_of(tmp_path, rows)
    assert found.output_tokens[:, 0].tolist() == [100, 50]  # nano: within
    assert found.output_tokens[:, 3].tolist() == [400, 90]  # frontier: apart


def test_a_missing_cost_is_computed_where_the_price_book_knows_the_model(tmp_path: Path) -> None:
    rows = make_rows(2, TWO)
    for row in rows:
        row["cost_usd"] = None
        row["input_tokens"], row["output_tokens"], row["cached_tokens"] = 1000, 100, 0
        row["model"] = "gpt-4o" if row["model"] == "large-4" else row["model"]
    path = write_jsonl(tmp_path / "o.jsonl", rows)
    ladder = parse_ladder("nano=tiny-1,frontier=gpt-4o")
    found = read_outcomes(path, ladder, book=load_book(), now=NOW)
    price = load_book().price("gpt-4o", NOW)
    assert price is not None
    expected = (1000 * price.rates.input + 100 * price.rates.output) / 1e15
    assert found.cost_usd[:, 3] == pytest.approx(expected)
    assert np.isnan(found.cost_usd[:, 0]).all()
    assert found.cost_source == {"nano": "unknown", "frontier": "computed"}
    assert not found.has_cost


def test_conversations_are_read_from_either_column(tmp_path: Path) -> None:
    rows = make_rows(3, TWO)
    turns = [{"role": "system", "content": "Be brief."}, *say("Hello")]
    for row in rows[:2]:
        row["prompt"] = json.dumps(turns, separators=(", ", ": "))
    for row in rows[2:4]:
        row["messages"], row["prompt"] = json.dumps(turns), None
    for row in rows[4:]:
        row["messages"] = [*turns, {"role": "assistant", "content": "the same answer"}]
    found = outcomes_of(tmp_path, rows)
    assert [list(messages) for messages in found.messages] == [turns] * 3


def test_a_conversation_that_differs_between_models_is_not_read() -> None:
    first = [*say("Hi"), {"role": "assistant", "content": "A"}, *say("More")]
    second = [*say("Hi"), {"role": "assistant", "content": "B"}, *say("More")]
    assert messages_of(["Hi"], [first, second]) == tuple(say("Hi"))
    assert messages_of([], [first, second]) == (*say("Hi"), *say("More"))
    assert messages_of(["a", "b"], []) is None


def test_a_query_with_another_prompt_for_each_model_is_left_out(tmp_path: Path) -> None:
    rows = make_rows(3, TWO)
    rows[0]["prompt"] = "something else"
    found = outcomes_of(tmp_path, rows)
    assert found.query_id.tolist() == ["q1", "q2"]
    assert found.dropped["queries_with_differing_prompts"] == 1


def test_spellings_of_a_question_and_turns_of_a_conversation_are_one_group() -> None:
    asked = "Which is a prime?\n(A) 4\n(B) 5"
    again = "which is  a PRIME\n(A) 5\n(B) 4"
    assert group_of(tuple(say(asked))) == group_of(tuple(say(again)))
    later = (*say(asked), {"role": "assistant", "content": "5"}, *say("Why?"))
    assert group_of(later) == group_of(tuple(say(asked)))
    assert group_of(tuple(say("Which is a square?"))) != group_of(tuple(say(asked)))
    assert group_of(tuple(say("？！"))) != group_of(tuple(say("…")))


def rows_with(**changes: Any) -> list[dict[str, Any]]:
    rows = make_rows(3, TWO)
    rows[2] = {**rows[2], **changes}
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            rows_with(score=7.5),
            "query 'q1', model 'tiny-1': score is 7.5; allowed is 0 to 1; divide it",
        ),
        (rows_with(score="good"), "query 'q1', model 'tiny-1': score is 'good', not a number"),
        (
            rows_with(cost_usd=-1),
            "query 'q1', model 'tiny-1': cost_usd is -1; allowed is 0 or more",
        ),
        (rows_with(output_tokens=float("inf")), "query 'q1', model 'tiny-1': output_tokens is inf"),
        (rows_with(output_tokens=10**400), "query 'q1', model 'tiny-1': output_tokens is inf"),
        (rows_with(contaminated="true"), "contaminated is 'true' in a row; write true or false"),
        (rows_with(query_id=None), "query_id is empty in a row of model 'tiny-1'"),
        ([{**r, "prompt": None} for r in make_rows(2, TWO)], "query 'q0': prompt and messages"),
        (
            [{**r, "messages": [{"content": "x"}]} for r in make_rows(1, TWO)],
            "query 'q0': prompt or messages holds a message without a role",
        ),
        ([{**r, "messages": 7} for r in make_rows(1, TWO)], "holds '7', neither text nor a list"),
        (
            [{**r, "messages": [{"role": "assistant", "content": "x"}]} for r in make_rows(1, TWO)],
            "assistant's turns alone",
        ),
        (make_rows(2, ("nano",)), r"no rows of model 'large-4' \(tier frontier\)"),
        ([{**r, "query_id": f"{i}"} for i, r in enumerate(make_rows(2, TWO))], "every model"),
        (make_rows(2, TWO, query_id=False), "column 'query_id' is missing"),
        (make_rows(2, TWO, model=False), "column 'model' is missing"),
        (make_rows(2, TWO, prompt=False), "neither a column 'prompt' nor 'messages'"),
    ],
)
def test_a_wrong_file_says_where_and_what_to_do(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    path = write_jsonl(tmp_path / "o.jsonl", rows)
    with pytest.raises(OutcomeFileError, match=said) as caught:
        read_outcomes(path, ladder_of(TWO))
    assert caught.value.path == str(path)
    assert caught.value.problem in str(caught.value)


def test_a_model_that_is_missing_is_answered_with_the_nearest_names(tmp_path: Path) -> None:
    for path in (
        write_jsonl(tmp_path / "o.jsonl", make_rows(2, TWO)),
        write_parquet(tmp_path / "o.parquet", make_rows(2, TWO)),
    ):
        with pytest.raises(OutcomeFileError, match=r"'Large-5'.*nearest: large-4"):
            read_outcomes(path, parse_ladder("nano=tiny-1,frontier=Large-5"))


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.jsonl", b'{"query_id": 1}\nnope\n', "line 2 is not JSON"),
        ("b.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("c.jsonl", b"\xff\xfe", "UTF-8"),
        ("d.jsonl", b"\n", "no rows"),
        ("e.parquet", b"PAR0 nothing", "neither named .jsonl nor a Parquet file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OutcomeFileError, match=said):
            read_outcomes(tmp_path / name, ladder_of(TWO))
    with pytest.raises(OutcomeFileError, match="no such file"):
        read_outcomes(tmp_path / "nowhere.parquet", ladder_of(TWO))
    with pytest.raises(OutcomeFileError, match="is a folder"):
        read_outcomes(tmp_path, ladder_of(TWO))
