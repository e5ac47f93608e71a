"""What all commands of `sfr` have in common: `-h`, help without the framework's types, and bad input in our words.

Every command fails with one line on stderr: that of a Failed, or one of the framework's, which is put into our words.
"""

import re
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from router.cli.failure import Exit, Failed

# typer does not export its UsageError, which all of its errors of input are.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
_HELP = ("-h", "--help")
# What the framework says, and what we say.
_WORDS = (
    (r"No such option: (\S+)", r"unknown option \1"),
    (r"No such command '(.*?)'", r"unknown command \1"),
    (r"\.? (?:Did you mean '?|\(Possible options: )([^'?)]+).*", r", did you mean \1?"),
    (r"(?:Value error, )?(.+) is not one of (.+)\.", r"expected one of \2, got \1"),
    (r"Missing (?:argument|option|parameter) '(.+?)'.*", r"expected \1"),
    (r"Got unexpected extra argument\S* \((.+)\)", r"unexpected \1"),
    (r"Option '(.+)' requires an argument", r"\1: expected a value"),
    (r"Value error, |Input should be", "expected"),
)


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Run the command, and end the process with its exit status."""
        if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a worker's letters
        try:
            status = super().main(*args, **{**settings, "standalone_mode": False})
        except typer.Abort:
            status = Exit.INTERRUPTED
        except Failed as error:
            status = _told(str(error), error.status)
        except _USAGE_ERROR as error:
            status = _told(_in_our_words(error), Exit.BAD_INPUT)
        sys.exit(status if isinstance(status, int) else Exit.DONE)


class Commands(typer.Typer):
    """A group of commands. Without a command it shows its help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            cls=_Group,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode="markdown",
            context_settings={"help_option_names": list(_HELP)},
            **settings,
        )

    def command(  # type: ignore[override]  # typer names each setting
        self, name: str | None = None, **settings: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return the decorator that adds a command."""
        return super().command(name, cls=_Command, **settings)


def _without_types(params: Any) -> Any:
    """Show flags and arguments by their names alone: what the framework says of their type is noise."""
    for each in params:
        if getattr(each, "is_flag", False):
            each.metavar = ""
        elif each.param_type_name == "argument":
            each.display_type = lambda *_, **__: None
    return params


def _told(message: str, status: int) -> int:
    if message:
        typer.echo(message, err=True)
    return status


def _in_our_words(error: Any) -> str:
    """Return what is wrong with the command line in one line, and which command's help says more."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        return str(error)
    param = getattr(error, "param", None)
    is_bad_value = type(error) is typer.BadParameter and param is not None
    message = str(error.message if is_bad_value else error.format_message())
    for theirs, ours in _WORDS:
        message = re.sub(theirs, ours, message)
    message = " ".join(message.split()).rstrip(".")
    if is_bad_value:
        message = f"{_name_of(param)}: {message}"
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message}; `{context.command_path} {_HELP[0]}` shows help"


def _name_of(param: Any) -> str:
    """Return an option's long name, or an argument's."""
    return str(max(param.opts, key=len) if param.param_type_name == "option" else param.metavar or param.name)
