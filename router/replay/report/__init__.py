"""The savings report of a log: its records, its charts and its page."""
