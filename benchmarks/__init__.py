"""What the farm costs: measured on this machine, against the same work without it."""
