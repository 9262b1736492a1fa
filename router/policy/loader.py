"""From a file, a name or a mapping to a `Policy`, or to a `PolicyError` that says what is wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from router.errors import PolicyError
from router.policy.document import MAX_BYTES, Document, read_mapping, read_text, shorten
from router.policy.fields import similar
from router.policy.problems import explain, problem_at
from router.policy.schema import Policy
from router.types import Tier

if TYPE_CHECKING:
    from router.prices import PriceBook


def load_policy(
    source: str | Path | Mapping[str, Any],
    *,
    book: PriceBook | None = None,
    now: float | None = None,
) -> Policy:
    """Read a policy and check all of it.

    Parameters: `source`, a YAML file's path, a shipped policy's name such as "default", or the
    policy itself as a mapping; `book`, the price book, the shipped one if None; `now`, unix
    seconds at which prices must hold, the present if None.
    Raises `PolicyError` for the first problem; `policy_problems` lists them all.
    """
    policy, problems = policy_problems(source, book=book, now=now)
    if policy is None or problems:
        raise problems[0]
    return policy


def policy_problems(
    source: str | Path | Mapping[str, Any],
    *,
    book: PriceBook | None = None,
    now: float | None = None,
) -> tuple[Policy | None, list[PolicyError]]:
    """Like `load_policy`, but return every problem; the policy is None where it cannot be built."""
    try:
        if isinstance(source, Mapping):
            document, file = read_mapping(source, "policy"), None
        else:
            file = find_policy(source)
            document = read_text(text_of(file), str(file))
            document.data.setdefault("name", _name_of(file))
    except PolicyError as error:
        return None, [error]
    return _validate(document, file, book, now)


def parse_policy(
    text: str, file: str = "policy", *, book: PriceBook | None = None, now: float | None = None
) -> Policy:
    """Read a policy from YAML text; `file` is what errors call it. Raises `PolicyError`."""
    policy, problems = _validate(read_text(text, file), None, book, now)
    if policy is None or problems:
        raise problems[0]
    return policy


def find_policy(source: str | Path) -> Path:
    """Return the file that `source` means: a path, or else the name of a shipped policy.

    "default", "default.yaml" and "policies/default.yaml" mean the shipped one where no such file
    exists in the working directory.
    """
    if not isinstance(source, str | Path):
        raise PolicyError(
            "policy", "", f"{shorten(repr(source), 60)} is none",
            allowed="a Policy, a file, the name of a shipped policy, or a mapping",
        )  # fmt: skip
    path = Path(source)
    try:
        if path.is_file():
            return path
        if path.exists() and path.suffix:
            raise PolicyError(str(source), "", "not a file", allowed="a YAML file")
    except (OSError, ValueError) as error:
        raise PolicyError(shorten(str(source), 200), "", f"cannot be read: {error}") from None
    shipped = shipped_policies()
    named = path.parent in (Path(), Path("policies")) and path.suffix in ("", ".yaml")
    if named and path.stem in shipped:
        return shipped[path.stem]
    near = similar(path.stem, shipped)
    names = ", ".join(shipped)
    problem = "it is a folder" if path.is_dir() else "no such file"
    raise PolicyError(
        shorten(str(source), 200), "", f"{problem}{near}", allowed=f"a path, or one of {names}"
    )


def shipped_policies() -> dict[str, Path]:
    """The policies that come with the package, by name: from the wheel, or from a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_policies"
    folder = installed if installed.is_dir() else package.parent / "policies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def text_of(file: Path) -> str:
    """Return a file's text; `PolicyError` for one that is too large or no UTF-8 text."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(str(file), "", f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise PolicyError(
            str(file), "", "the file is too large", allowed=f"up to {MAX_BYTES:,} bytes"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = f"byte {error.start} is not UTF-8"
        raise PolicyError(str(file), "", problem, allowed="UTF-8 text", line=line) from None


def _name_of(file: Path) -> str:
    stem = "".join(mark for mark in file.stem if mark.isprintable() and mark != "@")
    return stem[:100].strip() or "policy"


def _validate(
    document: Document, file: Path | None, book: PriceBook | None, now: float | None
) -> tuple[Policy | None, list[PolicyError]]:
    try:
        policy = Policy.model_validate(document.data)
    except ValidationError as error:
        return None, [explain(details, document) for details in _in_order(error)]
    policy._file = file
    return policy, _unpriced_tiers(policy, document, book, now)


def _unpriced_tiers(
    policy: Policy, document: Document, book: PriceBook | None, now: float | None
) -> list[PolicyError]:
    if not (policy.limited or policy.objective.needs_money):
        return []
    if book is None:
        from router.prices import load_book

        book = load_book()
    at = time.time() if now is None else now
    reason = "a budget has a limit" if policy.limited else "the objective needs costs"
    return [
        problem_at(
            document,
            ("tiers", tier),
            f"no usable price for {_models(policy, tier)}, and {reason}",
            allowed="a `price` for a deployment, or a model that `router prices show` lists",
        )
        for tier in policy.tiers.present
        if all(deployment.price_at(book, at) is None for deployment in policy.tiers.of(tier))
    ]


def _models(policy: Policy, tier: Tier) -> str:
    return ", ".join(deployment.model for deployment in policy.tiers.of(tier))


def _in_order(error: ValidationError) -> list[ErrorDetails]:
    """What a misspelt key is comes before what is missing for it; a list that only seems empty
    because its entries are wrong is left out."""
    found = error.errors(include_url=False)
    real = [each for each in found if not (each["type"] == "too_short" and each["input"])]
    return sorted(real, key=lambda each: each["type"] != "extra_forbidden")
