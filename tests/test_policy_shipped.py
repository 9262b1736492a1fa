"""The shipped policies, where they are found, the command that checks them, and the schema."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from router import Router
from router.cli.policy import command
from router.money import parse_usd
from router.policy import Policy, lint, load_policy
from router.policy.diff import changes
from router.policy.json_schema import json_schema
from router.prices import load_book
from router.prices.retired import retired
from router.types import TIERS, Budget

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "policies").glob("*.yaml"))
NAMES = [
    "anthropic", "default", "frugal", "google", "mixed", "openai", "paced", "quality",
    "self-hosted",
]  # fmt: skip
NOW = 1_795_500_000.0  # 2026-11-24


def test_the_shipped_policies_are_these():
    assert [file.stem for file in FILES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_policy_loads_by_name_without_a_warning(name):
    policy = load_policy(name)
    assert policy.name == name
    assert policy.description
    found = lint(policy, load_book(), NOW)
    assert [finding for finding in found if finding.severity == "warning"] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_shipped_policy_names_a_model_that_is_retired(name):
    book = load_book()
    checked = max(entry.checked for entry in book.models(NOW))
    at = datetime.combine(checked, time(), UTC).timestamp()
    assert retired([arm.model for arm in load_policy(name).arms()], at) == {}


def test_the_check_warns_of_a_model_that_is_retired(tmp_path):
    gone, base = "together_ai/openai/gpt-oss-20b", "http://127.0.0.1:8000/v1"
    file = tmp_path / "p.yaml"
    file.write_text(
        (ROOT / "policies/mixed.yaml")
        .read_text()
        .replace("    - {model: groq", f"    - {{model: {gone}}}\n    - {{model: groq", 1)
    )
    checked = CliRunner().invoke(command, ["check", str(file), "--json"])
    [found] = [each for each in json.loads(checked.stdout)[0]["findings"]
               if each["severity"] == "warning"]  # fmt: skip
    assert (checked.exit_code, found["key"]) == (0, "tiers.nano.0")
    assert f"{gone} was retired on 2026-09-15" in found["message"]
    assert CliRunner().invoke(command, ["check", str(file), "--strict"]).exit_code == 1
    file.write_text(file.read_text().replace(f"{gone}}}", f"{gone}, api_base: '{base}'}}"))
    assert "retired" not in CliRunner().invoke(command, ["check", str(file)]).stdout


def test_a_model_is_not_retired_on_its_last_day_and_is_on_the_next():
    last = datetime(2026, 9, 15, 23, tzinfo=UTC)
    model = "together_ai/openai/gpt-oss-20b"
    assert retired([model, "openai/gpt-5.5", "nobody/knows"], last.timestamp()) == {}
    assert retired([model], (last + timedelta(hours=1)).timestamp()) == {model: last.date()}


EASY = ["Hi!", "What is the capital of Peru?", "Translate 'good morning' to Spanish."]
HARD = [
    "Show that a finite integral domain is a field.",
    "Design a lock-free queue in C++ and prove that it is linearizable.",
    "Find all real solutions of x^5 - 5x + 3 = 0 and justify each step.",
]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "paced"])
def test_a_shipped_policy_sends_hard_requests_to_a_dearer_tier_than_easy_ones(name):
    with Router(name, store="sqlite://") as router:
        easy, hard = (
            [router.explain([{"role": "user", "content": text}]).arm.tier for text in texts]
            for texts in (EASY, HARD)
        )
    assert max(map(TIERS.index, easy)) < min(map(TIERS.index, hard))


def test_the_command_says_where_easy_and_hard_requests_go(tmp_path):
    tried = json.loads(CliRunner().invoke(command, ["check", "default", "--json"]).stdout)[0]
    assert (tried["tried"], tried["findings"]) == ({"easy": "mini", "hard": "frontier"}, [])
    assert "easy: mini, hard: frontier" in CliRunner().invoke(command, ["check", "default"]).stdout
    share = tmp_path / "share.yaml"  # of no calls yet a tenth is none
    budget = "{name: few, share: 0.1, scope: tier, value: frontier, window: day}"
    share.write_text((ROOT / "policies/default.yaml").read_text() + f"  - {budget}\n")
    assert "hard: frontier" in CliRunner().invoke(command, ["check", str(share)]).stdout
    same = tmp_path / "same.yaml"
    same.write_text((ROOT / "policies/default.yaml").read_text().replace(": 5}", ": 0}"))
    [found] = json.loads(CliRunner().invoke(command, ["check", str(same), "--json"]).stdout)
    [note] = found["findings"]
    assert (found["ok"], note["severity"], note["key"]) == (True, "note", "objective")
    assert note["message"].startswith("an easy request goes to frontier and a hard one too")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_policy_fits_the_schema_for_editors(name):
    document = yaml.safe_load((ROOT / "policies" / f"{name}.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json_schema()).validate(document)


@pytest.mark.parametrize("source", ["default", "default.yaml", "policies/default.yaml"])
def test_a_shipped_policy_is_found_from_anywhere_under_each_of_its_names(
    source, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert load_policy(source).stamp == load_policy(ROOT / "policies/default.yaml").stamp


def test_a_file_in_the_working_directory_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("default.yaml").write_text(
        "version: 1\nobjective: {cost_weight: 0}\ntiers: {frontier: [{model: a/b}]}\n"
    )
    assert [arm.model for arm in load_policy("default.yaml").arms()] == ["a/b"]


def test_the_policies_are_found_from_an_installed_wheel(tmp_path):
    def run(*command: str, **more: object) -> str:
        done = subprocess.run(command, capture_output=True, text=True, **more)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    target = tmp_path / "site"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--target", target, wheel,
    )  # fmt: skip
    program = (
        "import router.policy as p\n"
        "from router.policy.loader import shipped_policies\n"
        "print(p.__file__, p.load_policy('default').stamp, *shipped_policies())"
    )
    where, stamp, *names = run(
        sys.executable, "-c", program, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)}
    ).split()
    assert Path(where).is_relative_to(target)
    assert stamp == load_policy(ROOT / "policies/default.yaml").stamp
    assert names == NAMES


INLINE = {
    "version": 1,
    "name": "mine",
    "objective": {"cost_weight": 20},
    "tiers": {
        "nano": [
            {"model": "a/one", "params": {"temperature": 0.2, "stop": ["x"]}, "effort": "low"},
            {"model": "a/two"},
        ],
        "frontier": [{"model": "a/three", "price": {"input": "3", "output": 15}}],
    },
    "budgets": [
        {"name": "daily", "limit": "5.00", "window": "day", "zone": "Europe/Berlin"},
        {"name": "watch", "limit": None, "scope": "user", "on_exceed": "downgrade"},
    ],
}


def inline(**more: object) -> Policy:
    tiers = {**INLINE["tiers"], "nano": [{**each, "price": {"input": 1, "output": 2}}
                                         for each in INLINE["tiers"]["nano"]]}  # fmt: skip
    return load_policy({**INLINE, "tiers": tiers, **more})


def test_a_policy_may_be_a_mapping():
    policy = inline()
    assert [arm.name for arm in policy.arms()] == [
        "nano/0:a/one@low", "nano/1:a/two", "frontier/0:a/three"
    ]  # fmt: skip
    assert policy.deployment(policy.arms()[1]).model == "a/two"
    assert policy.deployment(policy.arms()[0]).params == {"temperature": 0.2, "stop": ["x"]}
    assert policy.tiers.present == ("nano", "frontier")
    assert policy.baseline == "frontier"


def test_budgets_come_out_in_nano_dollars():
    assert inline().budget_list() == (
        Budget("daily", 5_000_000_000, "day", "Europe/Berlin"),
        Budget("watch", None, "total", "UTC", "user", "downgrade"),
    )


def test_a_price_keeps_the_digits_that_were_written(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "version: 1\nobjective: {max_cost_per_request: 0.10}\ntiers:\n"
        "  frontier: [{model: a/b, price: {input: 0.1, output: 0.3}}]\n"
    )
    policy = load_policy(file)
    assert parse_usd(policy.objective.max_cost_per_request) == 100_000_000
    price = policy.deployment(policy.arms()[0]).price_at(load_book(), NOW)
    assert (price.rates.input, price.rates.output) == (100_000_000, 300_000_000)


def test_the_hash_is_of_the_content_not_of_how_it_is_written():
    policy = inline()
    assert policy.stamp == f"mine@{policy.hash[:12]}"
    assert inline(name="other", description="words").hash == policy.hash
    assert inline(budgets=[{**INLINE["budgets"][0], "limit": 5}, INLINE["budgets"][1]]).hash == (
        policy.hash
    )
    assert inline(limits={"max_output_tokens": 4096}).hash == policy.hash  # the default
    assert inline(limits={"max_output_tokens": 4095}).hash != policy.hash


def test_prices_of_one_amount_are_one_policy_however_they_are_spelt():
    def priced(one, two, factor):
        price = {"input": one, "output": two, "multipliers": {"flex": factor}}
        return inline(tiers={"frontier": [{"model": "a/b", "price": price}]})

    spelt = [
        priced("2", "0.1", "0.5"),
        priced("2.00", "00.10", "0.50"),
        priced(2, "0.100", "0.500"),
    ]
    assert len({policy.hash for policy in spelt}) == 1
    assert changes(spelt[0], spelt[1]) == []
    assert changes(spelt[0], priced("20", "0.1", "0.5"))[0].new == "20"


def test_a_policy_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        inline().baseline = "nano"


def test_a_file_without_a_name_is_called_by_its_stem_and_its_predictor_lies_beside_it(tmp_path):
    file = tmp_path / "team a@b.yaml"
    file.write_text(
        "version: 1\nobjective: {cost_weight: 0}\ntiers: {frontier: [{model: a/b}]}\n"
        "predictor: {path: model}\n"
    )
    policy = load_policy(file)
    assert policy.name == "team ab"
    assert policy.predictor_path == tmp_path / "model"


def test_the_schema_is_valid_and_describes_every_key():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    own = {"Policy", "Deployment", "Rule", "Condition", "BudgetLimit", "Tiers", "Objective"}
    parts = {"Policy": schema, **schema["$defs"]}
    for name in own:
        assert parts[name]["additionalProperties"] is False
        for key, value in parts[name]["properties"].items():
            # A part described in the same words where it is defined keeps them only there.
            there = parts.get(value.get("$ref", "").rpartition("/")[2], {})
            assert value.get("description") or there.get("description"), f"{name}.{key}"
    assert set(parts["Tiers"]["properties"]) == set(TIERS)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"objective": {"cost_weight": 1, "keep_quality": 0.9}},
        {"objective": {}},
        {"tiers": {"frontier": [{"model": "a", "effort": "hihg"}]}},
        {"budgets": [{"name": "a", "limit": "-1"}]},
        {"rules": [{"name": "a", "when": {}, "tier": "mid"}]},
        {"rules": [{"name": "a", "when": {"tags": ["x"]}}]},
        {"unknown": 1},
    ],
)
def test_the_schema_refuses_what_an_editor_should_mark(change):
    validator = jsonschema.Draft202012Validator(json_schema())
    assert validator.is_valid(INLINE)
    assert not validator.is_valid({**INLINE, **change})


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.output


@pytest.fixture
def bad_file(tmp_path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nobjectiv: {cost_weight: 1}\ntiers: {frontier: [{model: a/b}]}\n")
    return file


@pytest.fixture
def unwise_file(tmp_path) -> Path:
    file = tmp_path / "unwise.yaml"
    file.write_text(
        "version: 1\nobjective: {cost_weight: 1}\ntiers:\n"
        "  mid: [{model: openai/gpt-5.5}]\n  frontier: [{model: openai/gpt-5.4}]\n"
    )
    return file


def test_check_passes_good_files_and_shows_their_stamps():
    code, output = run("check", *(str(file) for file in FILES))
    assert code == 0
    assert load_policy("default").stamp in output
    assert "warning" not in output


def test_check_fails_on_an_error_and_shows_all_of_them_with_their_lines(bad_file):
    code, output = run("check", "default", str(bad_file))
    assert code == 1
    assert f"error {bad_file}:2: objectiv: unknown key 'objectiv'; did you mean 'objective'?" in (
        output
    )
    assert "'objective' is missing" in output
    assert "ok default" in output


def test_check_fails_on_a_warning_only_with_strict(unwise_file):
    code, output = run("check", str(unwise_file))
    assert code == 0
    assert "mid is dearer than frontier at every prompt length" in output
    assert run("check", "--strict", str(unwise_file))[0] == 1


def test_check_prints_json_and_only_json(bad_file, unwise_file):
    code, output = run("check", "--json", "default", str(bad_file), str(unwise_file))
    good, bad, unwise = json.loads(output)
    assert code == 1
    assert (good["ok"], good["findings"]) == (True, [])
    assert bad["ok"] is False
    assert bad["findings"][0]["key"] == "objectiv"
    assert bad["findings"][0]["line"] == 2
    *warnings, note = unwise["findings"]
    assert {finding["severity"] for finding in warnings} == {"warning"}
    assert (note["severity"], note["key"]) == ("note", "objective")


def test_schema_prints_the_schema():
    code, output = run("schema")
    assert code == 0
    assert json.loads(output) == json_schema()
