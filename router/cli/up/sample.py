"""`sfr config new`: a configuration to begin with, for those who have no checkout."""

from pathlib import Path
from typing import Annotated

import typer

from router.cli import options
from router.cli.carried import SAMPLE_CONFIG, carried
from router.cli.failure import Exit


def new(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not exist.")] = Path(
        "config.yaml"
    ),
) -> None:
    """Write a configuration to begin with: two workers to name, and the keys that matter most, each with its reason.

    Example: `sfr config new && sfr config check`
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(carried(SAMPLE_CONFIG).read_text(encoding="utf-8"))
    except FileExistsError:
        options.fail(f"{path} exists already, and is left as it is", Exit.BAD_INPUT)
    except OSError as error:
        options.fail(f"{path} cannot be written: {error.strerror}", Exit.BAD_INPUT)
    typer.echo(f"{path}: name your workers in it; `sfr config check` checks it")
