"""One request on its way: its wire attempts, its waits, and the answers that it was given."""
