"""`sfr top`: shows live what the fleet does.

It may not import downstream or app.
"""
