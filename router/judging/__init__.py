"""Sampled judging of logged answers: shadow calls, blind verdicts in both orders, labels."""

from __future__ import annotations

from router.judging.figures import JudgeReport
from router.judging.run import judge

__all__ = ["JudgeReport", "judge"]
