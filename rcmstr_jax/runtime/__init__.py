"""What long jobs stand on: checkpoints, devices, hosts, progress, errors; it knows no task."""
