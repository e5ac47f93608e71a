"""The fleet as Redis holds it: workers, their health, what operators want, who leads, what is counted.

The only room that knows the Redis client. It may not import scheduling, http or jobs.
"""
