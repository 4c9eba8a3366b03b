"""The method as pure functions."""
