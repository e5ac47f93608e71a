"""Unit tests of router.downstream. They start no process except a fork, and use no real Redis."""
