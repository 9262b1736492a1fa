"""Requests that belong together: what each turn costs where, safe switches, shorter histories."""
