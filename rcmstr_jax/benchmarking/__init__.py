"""Time, memory and operations of the parts of pretraining; `launch/benchmark.py` is its command."""
