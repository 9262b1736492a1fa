from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from router import Router
from router.predict import Predictor
from router.predict.features import DENSE_NAMES
from router.predict.model_file import ModelFile
from router.predict.scorer import ARRAY_SHAPES, HEADS
from router.types import TIERS, Effort
from tests.provider import Provider
from tests.stores import store as store  # a fixture

PRICES = {
    "nano": {"input": "0.2", "output": "1.25", "cache_read": "0.02"},
    "mini": {"input": "0.75", "output": "4.5", "cache_read": "0.075"},
    "mid": {"input": "2.5", "output": "15", "cache_read": "0.25"},
    "frontier": {"input": "10", "output": "60", "cache_read": "1"},
}
CAPABILITIES = {
    "vision": False,
    "tools": True,
    "structured_output": True,
    "context_window": 128_000,
    "max_output_tokens": 16_384,
}


def pytest_collection_finish() -> None:
    """What was imported stays: it is not looked through again by every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of stores on a server belong to the test, not to the user who runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


def ladder(url: str, **changes: Any) -> dict[str, Any]:
    """A policy of four tiers at one provider; `changes` replace its top-level keys."""
    tiers = {
        tier: [
            {
                "model": f"openai/t-{tier}",
                "api_base": url,
                "capabilities": dict(CAPABILITIES),
                "price": dict(price),
            }
        ]
        for tier, price in PRICES.items()
    }
    return {
        "version": 1,
        "name": "test",
        "objective": {"cost_weight": 20},
        "tiers": tiers,
        "limits": {"max_output_tokens": 500},
        "retry": {"attempts": 3, "initial_wait": 0.01, "max_wait": 0.5},
        "timeout": {"connect": 2, "read": 10, "total": 20},
        "log": {"durability": "normal"},
        **changes,
    }


def plain_model(**changes: Any) -> ModelFile:
    """A model that knows no word and of which only `changes` say anything."""
    sizes: dict[int | str, int] = {"V": 0, "E": 1, "P": 1}
    arrays = {
        name: np.zeros([sizes.get(length, length) for length in shape])
        for name, shape in ARRAY_SHAPES.items()
    }
    arrays["vocabulary"] = arrays["vocabulary"].astype(np.int32)
    arrays["dense_scale"] += 1
    arrays["mix"][1] = 1  # gains alone
    arrays["level"][1] = arrays["gain"][0] = 1
    arrays["novelty"][:] = -2  # nothing is novel
    efforts = {effort: {"factor": 1.0} for effort in get_args(Effort)}
    facts = {
        "dense_names": list(DENSE_NAMES),
        "effort_tokens": efforts,
        "prior_rows": 1.0,
        "temperature": 0.1,
        "tiers": list(TIERS),
    }
    return ModelFile("steady", "0" * 64, facts, {**arrays, **changes})


def steady_predictor() -> Predictor:
    """A real predictor of a plain model: each tier a tenth better, 100 tokens, for any prompt."""
    heads = {"frontier_quality": 0.9, "nano_regret": 0.3, "mini_regret": 0.2, "mid_regret": 0.1}
    tokens = np.log(101)
    intercept = [tokens if head.endswith("_tokens") else heads.get(head, 0.0) for head in HEADS]
    return Predictor(plain_model(intercept=np.array(intercept)))


def only(tier: str) -> dict[str, Any]:
    """A rule that sends every request to one tier, and lets a fallback go up."""
    return {"name": f"from-{tier}", "when": {"min_input_tokens": 0}, "at_least": tier}


MakeRouter = Callable[..., Router]


@pytest.fixture
def make_router(provider: Provider, tmp_path: Path) -> Iterator[MakeRouter]:
    """Make routers over the test's provider, each with the same store."""
    routers: list[Router] = []

    def make(**changes: Any) -> Router:
        store = changes.pop("store", f"sqlite:///{tmp_path / 'router.db'}")
        clock = {"clock": changes.pop("clock")} if "clock" in changes else {}
        own = {name: changes.pop(name) for name in ("checks", "gates") if name in changes}
        predictor = changes.pop("predictor", None) or steady_predictor()
        router = Router(
            ladder(provider.url, **changes), store=store, predictor=predictor, **clock, **own
        )
        routers.append(router)
        return router

    yield make
    for router in routers:
        router.close()


def usd(text: str) -> int:
    from router.money import parse_usd

    return parse_usd(text)


HELLO = [{"role": "user", "content": "Say hello to the new colleague."}]
