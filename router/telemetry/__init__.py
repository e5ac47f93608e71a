"""Counts what this process does, and publishes it: for Prometheus, and for the fleet.

It may not import scheduling or jobs: they tell it what happened.
"""
