"""Scores of words that were read, and how sure they are: pure functions of texts."""
