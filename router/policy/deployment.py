"""One model behind one provider: how it is called, what it can take, what it costs."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from router.policy.capacity import CapacityLimits, HealthCheck
from router.policy.fields import Part, Real, Tokens, http_url, wrong
from router.policy.vote import Vote
from router.prices.schema import PriceEntry, to_price
from router.types import Effort

if TYPE_CHECKING:
    from router.prices.book import PriceBook
    from router.prices.price import Price

# What a deployment's `params` may not hold, and what says it instead. These decide what a call
# costs, where it goes, or how often it is sent, which the router itself must know.
REFUSED_PARAMS: dict[str, str] = {
    "api_base": "the deployment's `api_base`",
    "api_key": "the deployment's `api_key_env`, the name of an environment variable",
    "audio": "the request's own argument",
    "base_url": "the deployment's `api_base`",
    "context_window_fallback_dict": "further deployments in the tier",
    "extra_body": "the arguments themselves, as further `params`",
    "fallbacks": "further deployments in the tier",
    "functions": "the request's own argument",
    "max_completion_tokens": "the deployment's `max_output_tokens`",
    "max_output_tokens": "the deployment's `max_output_tokens`",
    "max_retries": "the policy's `retry`",
    "max_tokens": "the deployment's `max_output_tokens`",
    "messages": "the request's own argument",
    "mock_response": "a local server as `api_base`",
    "modalities": "the request's own argument",
    "model": "the deployment's `model`",
    "n": "the request's own argument",
    "num_retries": "the policy's `retry`",
    "prediction": "the request's own argument",
    "reasoning_effort": "the deployment's `effort`",
    "request_timeout": "the policy's `timeout`",
    "response_format": "the request's own argument",
    "service_tier": "the deployment's `service_tier`",
    "stream": "the request's own argument",
    "stream_options": "the request's own argument",
    "timeout": "the policy's `timeout`",
    "tools": "the request's own argument",
    "web_search_options": "the request's own argument",
}


# Arguments that reach some provider's request beside the cap and the price that were reserved:
# other names of the cap, or its omission; text that is not in `messages`; more answers, other
# models, work or service that costs extra. Under a limit neither a request nor a deployment has
# them.
UNBOUNDED = (
    *("extra_body", "max_output_tokens", "maxOutputTokens", "max_new_tokens", "num_predict"),
    *("max_tokens_to_sample", "generation_config", "generationConfig", "inferenceConfig"),
    *("additional_drop_params", "system", "documents", "prompt_id", "prompt_variables"),
    *("best_of", "num_return_sequences", "models", "plugins", "web_search_options"),
    *("web_search", "search_parameters", "enable_search", "speed", "inference_geo"),
    *("mcp_servers", "container"),
)


class CapabilityOverrides(Part):
    """What a deployment can take, where the price book does not know it or is wrong about it."""

    vision: bool | None = Field(default=None, description="Whether it reads images.")
    audio: bool | None = Field(default=None, description="Whether it reads audio.")
    files: bool | None = Field(default=None, description="Whether it reads files such as PDF.")
    tools: bool | None = Field(default=None, description="Whether it calls tools.")
    structured_output: bool | None = Field(
        default=None, description="Whether it keeps to a JSON schema."
    )
    logprobs: bool | None = Field(
        default=None,
        description="Whether it takes `logprobs`, for cascade.logprobs. Otherwise litellm's word "
        "counts, but for Google's models and for arms with an effort, which often refuse it.",
    )
    context_window: Tokens | None = Field(
        default=None, description="Tokens that fit, prompt and answer."
    )
    max_output_tokens: Tokens | None = Field(
        default=None, description="The longest answer, in tokens."
    )
    reasoning_beyond_cap: Tokens | None = Field(
        default=None,
        description="Reasoning tokens that the provider may bill on top of max_tokens, where it "
        "does not count them in it.",
    )


def _checked_params(params: dict[str, Any]) -> dict[str, Any]:
    for name in params:
        if name in REFUSED_PARAMS:
            raise wrong(f"{name} may not be set here", REFUSED_PARAMS[name], name)
    return {name: _json_value(value) for name, value in params.items()}


def _json_value(value: object) -> object:
    """Turn a document's values into what a provider's client sends as JSON."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return value


CheckedParams = Annotated[dict[str, Any], AfterValidator(_checked_params)]


class Deployment(Part):
    """One model behind one provider, called in one way."""

    model: Annotated[str, Field(pattern=r"^\S{1,200}$")] = Field(
        description="The model as litellm names it, such as openai/gpt-5.4-mini."
    )
    params: CheckedParams = Field(
        default_factory=dict,
        description="Arguments sent with each call, such as temperature; the request's own win.",
    )
    effort: Effort | None = Field(default=None, description="The reasoning effort asked for.")
    efforts: Annotated[tuple[Effort, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Several reasoning efforts instead of one: each is an arm of its own, and the "
        "first is the tier's usual one.",
    )
    effort_params: dict[Effort, CheckedParams] | None = Field(
        default=None,
        description="What says each effort to a server that has its own way, such as none: "
        "{chat_template_kwargs: {enable_thinking: false}}; reasoning_effort says it otherwise.",
    )
    vote: Vote | None = Field(
        default=None, description="A vote of several samples of it, as an arm of its own."
    )
    api_base: Annotated[str, AfterValidator(http_url)] | None = Field(
        default=None, description="Where the provider answers, if not at its usual address."
    )
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        default=None,
        description="The name of the environment variable with the key; never a key itself.",
    )
    service_tier: Literal["flex", "priority"] | None = Field(
        default=None, description="The provider's service tier, which has a price of its own."
    )
    max_output_tokens: Tokens | None = Field(
        default=None,
        description="The longest answer asked of this deployment; the limits' one otherwise.",
    )
    cache_seconds: Annotated[Real, Field(ge=0, le=604_800)] | None = Field(
        default=None,
        description="How long its prompt cache keeps a conversation after its last call; what the "
        "provider documents otherwise. 0: it has none.",
    )
    capabilities: CapabilityOverrides = Field(
        default=CapabilityOverrides(),
        description="What it can take, over what the price book says.",
    )
    price: PriceEntry | None = Field(
        default=None, description="Its own price, in USD per million tokens or by GPU-hour."
    )

    limits: CapacityLimits | None = Field(
        default=None, description="How much may be sent to it by one process."
    )
    health: HealthCheck | None = Field(
        default=None, description="How to ask a server of one's own for its health and queue."
    )

    @property
    def asked_efforts(self) -> tuple[Effort | None, ...]:
        """The reasoning efforts that it may be called with, the usual one first."""
        return self.efforts or (self.effort,)

    @model_validator(mode="after")
    def _distinct_efforts(self) -> Self:
        if self.efforts is not None:
            if self.effort is not None:
                raise wrong("efforts are given as well", "either effort or efforts", "effort")
            if len(set(self.efforts)) < len(self.efforts):
                raise wrong("an effort is named twice", "each effort once", "efforts")
        for effort in self.effort_params or ():
            if effort not in self.asked_efforts:
                asked = ", ".join(each or "none asked" for each in self.asked_efforts)
                raise wrong(f"{effort} is never asked for", asked, "effort_params", effort)
        return self

    @model_validator(mode="after")
    def _askable(self) -> Self:
        if self.health is not None and self.health.url is None and self.api_base is None:
            raise wrong(
                "there is no address to ask", "with api_base, or a url of its own", "health"
            )
        return self

    def price_at(self, book: PriceBook, now: float) -> Price | None:
        """Return its own price or else the book's, at `now` in unix seconds.

        None where there is none, or where it has no multiplier for the deployment's service tier.
        """
        if self.price is not None:
            price = to_price(self.price, self.model)
        elif (listed := book.price(self.model, now)) is not None:
            price = listed
        else:
            return None
        if self.service_tier is not None and self.service_tier not in price.multipliers:
            return None
        return price
