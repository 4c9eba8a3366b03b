"""The plan of a run, its state and steps, and the loop that takes them."""
