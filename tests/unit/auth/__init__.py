"""Unit tests of router.auth. They start no process and use no real Redis."""
