"""Decides what may be configured, and reads it: config.yaml, the environment, secrets in files, addresses.

It may import no room except policy, whose rules say which endpoints and budgets a setting may name.
"""
