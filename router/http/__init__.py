"""HTTP as both sides of the router use it: header fields, answers, ASGI, sockets.

It decides which header fields are forwarded and how an answer is sent. It may not import fleet or jobs.
"""
