"""Unit tests of router.upstream. They start no process and use no real Redis."""
