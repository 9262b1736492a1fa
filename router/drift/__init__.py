"""Alarms about what changed, and the safe side until a person has looked at them."""
