"""The search: many candidates on the training days, and which of them no other beats in both cost
and quality.

Optuna suggests (a tree-structured Parzen estimator for several objectives, Ozaki et al. 2022,
J. Artif. Intell. Res. 73, 1209-1250; or NSGA-II, Deb et al. 2002, IEEE Trans. Evol. Comput. 6,
182-197); each candidate is replayed on arrays. One that the log cannot support is told apart by a
constraint, so that the search learns to stay where the log has something to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from router.errors import ConfigurationError, PolicyError, ReplayError
from router.replay.off_policy.paired import Paired
from router.replay.off_policy.support import LEAST_EFFECTIVE, MOST_UNSUPPORTED
from router.replay.tuning.space import Base, Settings, Space
from router.replay.tuning.stretch import Stretch

if TYPE_CHECKING:
    from router.replay.off_policy.path import Path
    from router.types import Ints, Tier

Sampler = Literal["tpe", "nsga2"]
TUNE_EXTRA = "pip install 'tiered-router[tune]'"
_STRAIN = "strain"  # by how much a candidate is beyond what the log supports; at most 0 is within


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and what the training days say of it: `found` against the base, `decided` on
    each batch. `why_not`: why nothing can be said of it."""

    settings: Settings
    found: Paired | None
    decided: Sequence[Ints | Path]
    why_not: str | None = None

    @property
    def point(self) -> tuple[float, float]:
        """Its cost in US dollars a request and its quality, as estimated."""
        assert self.found is not None
        return self.found.new["cost_per_request_usd"], self.found.new["quality"]

    @property
    def usable(self) -> bool:
        """Whether the log supports its figures."""
        return self.why_not is None


class Trials:
    """Candidates of a space, each evaluated once."""

    def __init__(self, base: Base, training: Stretch) -> None:
        self._base, self._training = base, training
        self.known: dict[Settings, Tried] = {}

    def of(self, settings: Settings) -> Tried:
        """What the training days say of these settings."""
        if settings not in self.known:
            self.known[settings] = self._try(settings)
        return self.known[settings]

    def _try(self, settings: Settings) -> Tried:
        try:
            policy = self._base.candidate(settings)
            decided = self._training.decided(self._base.target(policy))
        except (PolicyError, ReplayError) as error:
            return Tried(settings, None, (), str(error))
        found = self._training.compare(decided)
        why_not = "; ".join(found.refused) or found.why_not
        return Tried(settings, found, decided, why_not)

    def front(self) -> list[Tried]:
        """The candidates that no other is better than in one of cost and quality without being
        worse in the other, cheapest first."""
        usable = sorted(
            (each for each in self.known.values() if each.usable),
            key=lambda each: (each.point[0], -each.point[1]),
        )
        front: list[Tried] = []
        for each in usable:
            if not front or each.point[1] > front[-1].point[1]:
                front.append(each)
        return front

    def plainer(self, tried: Tried) -> Tried:
        """The same decisions with as many of the base's own settings as make no difference."""
        for step in _steps_back(self._base.settings):
            settings = step(tried.settings)
            if settings == tried.settings:
                continue
            other = self.of(settings)
            if other.usable and self._training.same(other.decided, tried.decided):
                tried = other
        return tried


def _steps_back(own: Settings) -> list[Callable[[Settings], Settings]]:
    """Single steps from a candidate towards the base's own settings."""

    def number(key: str) -> Callable[[Settings], Settings]:
        def step(settings: Settings) -> Settings:
            # Only where both have the key: another kind of objective is no step.
            both = None not in (getattr(settings, key), getattr(own, key))
            return replace(settings, **{key: getattr(own, key)}) if both else settings

        return step

    def tier(name: Tier) -> Callable[[Settings], Settings]:
        return lambda settings: replace(
            settings, tiers=tuple(t for t in own.tiers if t in (*settings.tiers, name))
        )

    def length(key: tuple[int, str], value: int) -> Callable[[Settings], Settings]:
        return lambda settings: replace(
            settings,
            lengths=tuple((each, value if each == key else old) for each, old in settings.lengths),
        )

    return [
        lambda settings: replace(settings, margin=None),
        *map(number, ("margin", "cost_weight", "keep_quality")),
        *map(tier, own.tiers),
        *(length(key, value) for key, value in own.lengths),
    ]


def search(
    space: Space,
    trials: Trials,
    *,
    count: int,
    seed: int,
    sampler: Sampler = "tpe",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Try `count` candidates, the base first; the same ones for the same seed and log.

    Raises `ConfigurationError` where Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigurationError(f"`router tune` searches by Optuna: {TUNE_EXTRA}") from None
    trials.of(space.base)
    loudness = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Optuna calls experimental is what is wanted
            study = optuna.create_study(
                directions=["minimize", "maximize"], sampler=_sampler(optuna, sampler, seed)
            )
            study.enqueue_trial(space.parameters(space.base))
            for done in range(count):
                trial = study.ask()
                tried = trials.of(space.suggest(trial))
                trial.set_user_attr(_STRAIN, _strain(tried))
                if tried.found is None:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, tried.point)
                progress(done + 1, count)
    finally:
        optuna.logging.set_verbosity(loudness)


def _sampler(optuna: Any, name: Sampler, seed: int) -> Any:
    def strain(trial: Any) -> tuple[float]:
        return (float(trial.user_attrs.get(_STRAIN, 1.0)),)

    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=20, constraints_func=strain)
    # Settings go together (a weight means nothing under keep_quality): they are modelled jointly.
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constraints_func=strain, n_startup_trials=20
    )


def _strain(tried: Tried) -> float:
    """How far the log is from supporting a candidate; 0 where it does."""
    if tried.usable or tried.found is None:
        return 0.0 if tried.usable else 1.0
    new = tried.found.new
    lost = float(max(new["unsupported"], new["unsupported_cost"])) - MOST_UNSUPPORTED
    thin = 1 - float(new["effective"]) / LEAST_EFFECTIVE
    return max(lost, thin, 1e-3)
