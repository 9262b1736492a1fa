"""Writing a tuned policy: the base's own text with the searched values replaced, and why.

The text is edited by lines, so that comments and order stay as their author left them, and then
read again: where it does not mean exactly what was judged (a policy in one line, say), the whole
content is written anew, without the base's comments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any

from router.errors import ConfigurationError, PolicyError
from router.policy import Policy
from router.policy.document import Lines, as_yaml, read_text
from router.policy.loader import parse_policy
from router.replay.tuning.space import Base, Settings

_WIDTH = 98


def check_place(base: Base, out: Path) -> None:
    """Refuse a place where the tuned policy would mean something else, or replace its base.

    Raises `ConfigurationError`.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigurationError(f"{out} is no .yaml file")
    if not out.parent.is_dir():
        raise ConfigurationError(f"{out.parent} is no folder")
    if out.exists() and out.samefile(base.file):
        raise ConfigurationError(f"{out} is the base policy itself; name another file")
    own = base.policy.predictor
    beside = out.resolve().parent == base.file.resolve().parent
    if own is not None and not Path(own.path).is_absolute() and not beside:
        raise ConfigurationError(
            f"the base's predictor is looked for beside the policy: write {out.name} to "
            f"{base.file.parent}"
        )


def text_with(
    base: Base, settings: Settings, policy: Policy, head: Sequence[str], why: Mapping[str, str]
) -> str:
    """The tuned policy's text.

    Parameters: `policy`, what it must mean; `head`, paragraphs for its first lines; `why`, reasons
    by the key of the setting: `objective`, `tiers.nano`, `rules.0.when.min_input_tokens`.
    Raises `ConfigurationError` where no text means that.
    """
    first = [line for paragraph in head for line in comment(paragraph)]
    edited = _edited(base, settings, why)
    if edited is not None:
        text = "\n".join([*first, "", edited])
        if _means(text, policy, base):
            return text
    reasons = [line for key, reason in why.items() for line in comment(f"{key}: {reason}")]
    content = _plain(base.content(settings))
    body = as_yaml(content, _WIDTH)
    text = "\n".join([*first, *reasons, "", body])
    if not _means(text, policy, base):
        raise ConfigurationError("the tuned policy cannot be written as it was judged")
    return text


def comment(text: str, indent: str = "") -> list[str]:
    """A text as lines of a comment."""
    return wrap(
        text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _means(text: str, policy: Policy, base: Base) -> bool:
    try:
        return parse_policy(text, "tuned", book=base.book, now=base.now).hash == policy.hash
    except PolicyError:
        return False


def _edited(base: Base, settings: Settings, why: Mapping[str, str]) -> str | None:
    """The base's text with other lines for what changed; None where its lines cannot be told."""
    own, places = base.settings, read_text(base.text, str(base.file)).lines
    lines = base.text.splitlines()
    edits: list[tuple[int, int, list[str]]] = []  # from line (0-based), to before line, new lines
    objective = settings.as_dict()["objective"]
    if objective != own.as_dict()["objective"]:
        begin, end = _section(lines, places, ("objective",))
        new = ["objective:", *comment(why.get("objective", ""), "  ")]
        new += [f"  {key}: {_number(value)}" for key, value in objective.items()]
        edits.append((begin, end, new))
    for tier in own.tiers:
        if tier not in settings.tiers:
            begin, end = _section(lines, places, ("tiers", tier))
            edits.append((begin, end, comment(why.get(f"tiers.{tier}", ""), "  ")))
    before = dict(own.lengths)
    for (at, key), value in settings.lengths:
        if value == before[at, key]:
            continue
        line = places["rules", at, "when", key] - 1
        found = re.sub(rf"({key}\s*:\s*)[0-9]+", rf"\g<1>{value}", lines[line], count=1)
        indent = re.match(r"\s*", lines[places["rules", at] - 1])
        said = comment(why.get(f"rules.{at}.when.{key}", ""), indent.group() if indent else "")
        edits.append((line, line + 1, [found]))
        edits.append((places["rules", at] - 1, places["rules", at] - 1, said))
    edits.sort(key=lambda edit: edit[:2], reverse=True)
    if any(later[1] > earlier[0] for earlier, later in pairwise(edits)):
        return None
    for begin, end, new in edits:
        lines[begin:end] = new
    return "\n".join(lines) + "\n"


def _section(lines: Sequence[str], places: Lines, path: tuple[str, ...]) -> tuple[int, int]:
    """Where the lines of a key begin, and the next key's: comments above a key are its own."""
    begin = places[path] - 1
    depth = len(path)
    others = [at - 1 for key, at in places.items() if 0 < len(key) <= depth and at - 1 > begin]
    end = min(others, default=len(lines))
    while end > begin + 1 and not re.match(r"\s*[^\s#]", lines[end - 1]):
        end -= 1
    return begin, end


def _number(value: float) -> str:
    return f"{Decimal(repr(value)):f}" if abs(value) < 1e15 else repr(value)


def _plain(value: Any) -> Any:
    """The content as YAML's writer knows it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return float(value) if isinstance(value, Decimal) else value
