"""Several samples of one model, and the answer that most of them agree on."""

from router.votes.comparable import alike, comparable, rule_of

__all__ = ["alike", "comparable", "rule_of"]
