"""A long conversation with a script: every turn brings a fact, every fifth asks for an early one.

Made up, from a seed. `KINDS` say what the facts are like and where they stand:

- `numbers`: a booking's seat and gate, on a line of its own between boilerplate;
- `names`: something about a person, without any digit, on a line of its own between sentences that
  are never twice the same;
- `prose`: the same in the middle of a paragraph.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

KINDS = ("numbers", "names", "prose")
EVERY = 5  # turns, of which the last asks for what was said in half as many
RULES = "The agent follows the airline's rules on baggage, refunds, upgrades and compensation. "
BOILERPLATE = "Standard conditions of carriage apply to this fare as published by us. "
_COMMON = """
the passenger must present a valid document at the desk before the gate closes and any change of
date or name is subject to the fare rules of the carrier as well as to a fee which is shown when the
ticket is issued or exchanged unless the airline has cancelled or moved the flight
"""
_SAYINGS = (
    "{who} plays the {what} and will not check it in",
    "note that {who} faints near a running {what}",
    "the {what} is a present from {who}",
    "{who} asked us to forget about the {what}",
    "nobody but {who} may collect the {what}",
    "{who} swapped the {what} for a voucher",
    "a colleague of {who} lost the {what} on the way out",
    "{who} paid for the {what} in cash",
)
_WHAT = (
    "bassoon", "tripod", "hammock", "greyhound", "microscope", "rucksack", "unicycle", "theremin",
    "wetsuit", "barometer", "chessboard", "cactus", "snowboard", "marionette", "toolbox", "fiddle",
)  # fmt: skip


@dataclass(frozen=True)
class Script:
    """The messages of all turns, and each turn's fact."""

    messages: list[dict[str, Any]]
    facts: list[str]

    def asked(self, turn: int) -> str | None:
        """The fact that a turn asks for, None where it asks for none."""
        return self.facts[turn // 2] if turn % EVERY == EVERY - 1 else None

    def until(self, turn: int) -> list[dict[str, Any]]:
        """What a turn sends: all before it, and its own question."""
        return self.messages[: 2 + 4 * turn]


def script(kind: str, turns: int, seed: int = 0, sentences: int = 12) -> Script:
    """Four messages a turn after a system prompt: a question, a call, its result, an answer; each
    fact between twice so many sentences of boilerplate."""
    chance = random.Random(f"{kind} {seed}")
    people = [_name(chance) for _ in range(turns)]
    if kind == "numbers":
        facts = [f"booking B-{n:04} {_seat(n)} gate {n % 90}" for n in range(turns)]
        about = [f"booking B-{n:04}" for n in range(turns)]
    else:
        said = [(chance.choice(_SAYINGS), chance.choice(_WHAT)) for _ in range(turns)]
        facts = [s.format(who=who, what=what) for (s, what), who in zip(said, people, strict=True)]
        about = people
    messages: list[dict[str, Any]] = [{"role": "system", "content": RULES * 150}]
    for n, fact in enumerate(facts):
        asks = n % EVERY == EVERY - 1
        question = f"What did it say about {about[n // 2]}?" if asks else "Look up the next one."
        before, after, last = (_boilerplate(kind, chance, sentences) for _ in range(3))
        between = ". " if kind == "prose" else "\n"
        result = between.join((before, fact, after))
        function = {"name": "look_up", "arguments": json.dumps({"number": n})}
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "",
             "tool_calls": [{"id": f"call_{n}", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": f"call_{n}", "content": result},
            {"role": "assistant", "content": f"I have it. {last}"},
        ]  # fmt: skip
    return Script(messages, facts)


def _boilerplate(kind: str, chance: random.Random, count: int) -> str:
    if kind == "numbers":
        return (BOILERPLATE * count).strip()
    found = (" ".join(chance.choices(_COMMON.split(), k=12)) for _ in range(count))
    return ". ".join(each.capitalize() for each in found)


def _name(chance: random.Random) -> str:
    syllables = (chance.choice("BDFGKLMNPRSTVZ") + chance.choice("aeiou") for _ in range(4))
    return "".join(syllables).capitalize()


def _seat(n: int) -> str:
    return f"seat {n % 40 + 1}{'ABCDEF'[n % 6]}"
