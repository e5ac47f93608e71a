"""The endpoints that are no jobs: health, admin, metrics, the OpenAPI page. Made with FastAPI.

It may not import downstream or cli.
"""
