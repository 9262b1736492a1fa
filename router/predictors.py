"""The predictor that a policy asks for, and whether it can serve that policy."""

from __future__ import annotations

from router.errors import ModelFileError
from router.policy import Policy
from router.predict import Predictor, load_predictor


def predictor_of(policy: Policy) -> Predictor:
    """The policy's own predictor, or the shipped one.

    Raises `ModelFileError` for a file that is not what the policy says it is.
    """
    own = policy.predictor.embedder if policy.predictor else None
    predictor = load_predictor(policy.predictor_path, own)
    wanted = policy.predictor.sha256 if policy.predictor else None
    if wanted is not None and predictor.hash != wanted:
        raise ModelFileError(
            str(policy.predictor_path), f"its sha256 is {predictor.hash}, the policy asks {wanted}"
        )
    return predictor


def refuse_unknown_tiers(policy: Policy, predictor: Predictor) -> None:
    """Raise `ModelFileError` where a policy has a tier that the predictor never learnt."""
    unknown = [tier for tier in policy.tiers.present if tier not in predictor.tiers]
    if unknown:
        raise ModelFileError(
            str(policy.predictor_path or predictor.name),
            f"it was trained on {', '.join(predictor.tiers)} and knows nothing of "
            f"{', '.join(unknown)}: train it with outcomes of that tier, or leave the tier out",
        )
