"""Unit tests of router.cli. They start no process and use no Redis."""
