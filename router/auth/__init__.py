"""Decides which requests are let in: by API key, by admin token, and by the site of the page that sends them.

It may not import jobs or api.
"""
