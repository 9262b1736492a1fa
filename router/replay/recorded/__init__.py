"""Recorded outcomes as arrays: what was asked, and what each model answered."""
