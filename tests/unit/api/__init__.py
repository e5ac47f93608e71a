"""Unit tests of router.api. They start no process; Redis is a fake."""
