"""The health checker: which workers there are, and how well each is.

Of the router it may import config, fleet and what tests/project/test_imports.py names.
"""
