"""Arrays to pictures, nothing else."""
