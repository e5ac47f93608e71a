"""Decides how many jobs in one request run, each of them a line, and each answer a line.

It may not import downstream, api or cli.
"""
