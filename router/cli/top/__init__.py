"""`sfr top`: the fleet at a glance, again and again.

It may not import downstream or app.
"""
