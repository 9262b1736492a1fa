"""Deciding: predictions, quotes and room in; a choice with reasons and propensities out. Pure."""

from router.decide.choose import UNKNOWN, UNLIMITED, Bar, Choices, Objective, Options, choose
from router.decide.explain import decision, rejections

__all__ = [
    "UNKNOWN",
    "UNLIMITED",
    "Bar",
    "Choices",
    "Objective",
    "Options",
    "choose",
    "decision",
    "rejections",
]
