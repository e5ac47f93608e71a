"""Decisions, values and single handlers, without other processes."""
