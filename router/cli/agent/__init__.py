"""`sfr agent`: runs a worker's command on a host, and keeps that worker registered.

It may not import downstream or app.
"""
