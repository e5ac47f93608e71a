"""`python -m router.cli`: the same as `sfr`."""

from router.cli.main import app

app()
