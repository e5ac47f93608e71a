"""The page that shows the fleet, and the feed that it draws.

It may not import jobs or api.
"""
