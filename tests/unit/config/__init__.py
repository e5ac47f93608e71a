"""Unit tests of router.config. They start no process and use no Redis."""
