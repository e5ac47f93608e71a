"""`sfr doctor`: looks at all that a fleet needs, says what is wrong, and what to do about it.

`facts.py` looks, `findings.py` decides; neither may import downstream or app.
"""
