"""What a policy says about where calls and budgets are recorded, and without that place."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from router.policy.fields import Part, wrong


class Log(Part):
    """Where calls and budgets are recorded."""

    store: Annotated[
        str, Field(pattern=r"^(sqlite:///|postgresql://|(rediss?|valkeys?)://)\S+$")
    ] = Field(
        default="sqlite:///router.db", description="The store's URL, such as sqlite:///router.db."
    )
    content: bool = Field(
        default=False, description="Whether to keep the text of prompts and answers."
    )
    durability: Literal["full", "normal"] = Field(
        default="full",
        description="full survives a power cut; normal survives a crash of the program.",
    )


class LedgerOptions(Part):
    """How the budgets are asked, and what happens while their store is away."""

    lease: bool = Field(
        default=False,
        description="Whether a process holds a part of the budgets and spends it in memory; the "
        "store is told in batches.",
    )
    on_outage: Literal["deny", "lease", "open"] = Field(
        default="deny",
        description="While the store is away: deny sends nothing; lease goes on within what this "
        "process has leased; open goes on without limits and counts such calls as unaccounted.",
    )
    journal: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="The folder for what cannot be written meanwhile; by default beside the "
        "SQLite file, or in the user's state directory for a server.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.on_outage == "lease" and not self.lease:
            raise wrong("there are no leases to go on with", "with lease: true", "on_outage")
        return self
