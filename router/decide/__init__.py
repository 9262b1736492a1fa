"""Deciding: predictions, quotes and room in; a choice with reasons and propensities out. Pure."""

from router.decide.choose import Choices, choose
from router.decide.explain import decision, rejections
from router.decide.explore import Exploration
from router.decide.options import UNKNOWN, UNLIMITED, Bar, Objective, Options, cautious

__all__ = [
    "UNKNOWN",
    "UNLIMITED",
    "Bar",
    "Choices",
    "Exploration",
    "Objective",
    "Options",
    "cautious",
    "choose",
    "decision",
    "rejections",
]
