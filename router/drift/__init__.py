"""Alarms about what changed since a policy was set up, and what a router does until they are read."""
