"""Deciding: predictions, quotes and room in; a choice with reasons and propensities out. Pure."""

from router.decide.cascade import Look, best_answer, dearer, goes_on
from router.decide.choose import Choices, choose
from router.decide.evidence import Signals
from router.decide.explain import decision, rejections
from router.decide.explore import Exploration
from router.decide.obstacles import Obstacle, Obstacles
from router.decide.onward import Onward, after_look
from router.decide.options import UNKNOWN, UNLIMITED, Bar, Objective, Options, cautious

__all__ = [
    "UNKNOWN",
    "UNLIMITED",
    "Bar",
    "Choices",
    "Exploration",
    "Look",
    "Objective",
    "Obstacle",
    "Obstacles",
    "Onward",
    "Options",
    "Signals",
    "after_look",
    "best_answer",
    "cautious",
    "choose",
    "dearer",
    "decision",
    "goes_on",
    "rejections",
]
