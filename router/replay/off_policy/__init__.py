"""What other policies would have cost and achieved, by the log of one that left some to chance."""
