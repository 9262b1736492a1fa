"""What a policy says about votes: how many samples of a cheap model are asked and compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from router.policy.fields import Part, Real
from router.policy.rules import Condition


class Vote(Part):
    """Ask one model several times and hand out one of its answers: an arm of its own."""

    samples: Annotated[int, Field(ge=3, le=9)] = Field(
        default=5, description="The most samples of one vote."
    )
    pick: Literal["majority", "best"] = Field(
        default="majority",
        description="majority: the answer that most samples agree on; best: the sample that the "
        "cascade's gate finds likeliest good, whether answers can be compared or not.",
    )
    at_once: bool = Field(
        default=False,
        description="Send all samples at once: quickest. A majority hangs up on the rest as soon "
        "as it is decided, and what was hung up on is charged as reserved. Otherwise as many at a "
        "time as could decide it; of the best, one.",
    )
    sure: Annotated[Real, Field(gt=0.5, le=1)] = Field(
        default=0.95,
        description="Stop as soon as the leading answer is good with this probability, or cannot "
        "be overturned any more.",
    )
    concentration: Annotated[Real, Field(gt=0, le=100)] = Field(
        default=0.4,
        description="How much the samples of one request differ: near 0 they are all good or all "
        "bad, and a vote gains nothing. 0.4 is measured on riddles (benchmarks/votes.py).",
    )
    when: Condition | None = Field(
        default=None,
        description="Which requests are voted on; for a majority otherwise those that ask for a "
        "choice, a number, or JSON of a schema with closed values. Never with tools, at "
        "temperature 0 or with a seed.",
    )

    @property
    def ending(self) -> str:
        """What decides which answer is handed out and how many are paid for, where it is not as
        usual: "+best", "+sure0.8", "+at_once", in this order; a part of the arm's name."""
        words = {
            "best": self.pick == "best",
            f"sure{float(self.sure):g}": float(self.sure) != Vote.model_fields["sure"].default,
            "at_once": self.at_once,
        }
        return "".join(f"+{word}" for word, said in words.items() if said)
