"""`tune`: settings that a log says are better, judged on days that had no part in the search."""
