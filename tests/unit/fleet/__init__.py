"""Unit tests of router.fleet. They start no process and use no real Redis."""
