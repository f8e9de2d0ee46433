"""The loop that every daemon runs: world, reconcile, status."""
