"""One attempt on one worker: connections, requests, answers.

It may not import fleet or jobs: it is given a URL and bytes.
"""
