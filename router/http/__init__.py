"""Bytes, header fields and ASGI: what both sides of the router have in common.

It knows no job and no fleet.
"""
