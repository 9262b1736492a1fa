"""The policy: which models there are, what to strive for, and what may be spent."""

from router.policy.deployment import Deployment
from router.policy.lint import Finding, lint
from router.policy.loader import load_policy
from router.policy.rules import Rule
from router.policy.schema import Policy

__all__ = ["Deployment", "Finding", "Policy", "Rule", "lint", "load_policy"]
