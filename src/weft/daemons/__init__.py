"""Daemons are wiring: each picks sources and targets and hands them to the loop."""
