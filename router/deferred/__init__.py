"""Requests that can wait: for flex, batch and off-peak prices, in a queue on the disk."""
