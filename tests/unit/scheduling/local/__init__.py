"""Tests of router.scheduling without a process or a socket to Redis."""
