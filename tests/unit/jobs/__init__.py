"""Unit tests of router.jobs. They start no process and use no real Redis."""
