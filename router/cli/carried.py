"""Files that the wheel carries beside the code. In a checkout they lie at its top."""

from pathlib import Path

# The wheel has both in router/ (pyproject.toml).
GUNICORN_SETTINGS = "gunicorn.conf.py"
SAMPLE_CONFIG = "config.yaml"


def carried(name: str) -> Path:
    """Return the path of one of these files."""
    return next(path for place in Path(__file__).parents[1:3] if (path := place / name).exists())
