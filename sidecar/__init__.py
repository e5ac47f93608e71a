"""The sidecar: it decides which workers are in the fleet and which of them are healthy.

Of the router it may import config, fleet and the modules that tests/project/test_laws.py names.
"""
