"""Decides who may ask: API keys, the admin token, pages of other sites.

It may not import jobs or api.
"""
