"""Unit tests of router.fleet.journal. They start no process and use no real Redis."""
