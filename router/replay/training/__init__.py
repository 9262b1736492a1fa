"""Training runs: examples in, a new model and whether it beats the shipped one out."""
