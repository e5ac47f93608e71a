"""All endpoints except those for jobs: status, health, admin, metrics and the OpenAPI page, made with FastAPI.

It decides what operators may do to the fleet, and how the fleet is described to them. It may not import downstream or
cli.
"""
