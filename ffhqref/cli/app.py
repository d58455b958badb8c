"""The Typer app, and how errors become sentences and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ffhqref import __version__
from ffhqref.core.store import UserError
from ffhqref.core.terminal import escaped_output


class Commands(TyperGroup):
    """Turns what the user can fix into one sentence and exit code 1; `--debug` shows the traceback.

    Whatever a command prints is escaped: see `ffhqref.core.terminal`.
    """

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        with escaped_output():
            try:
                return super().main(args, *more, **extra)
            except OSError as error:  # before any command: `--version > /dev/full`
                if "--debug" in (sys.argv[1:] if args is None else args):
                    raise
                _say(f"Error: {_sentence(error)}")
                sys.exit(1)

    def invoke(self, ctx: Any) -> Any:
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except UserError as error:
            _stop(str(error))
        except typer.BadParameter as error:  # Typer's own sentence, without what pydantic puts before it
            error.message = error.message.removeprefix("Value error, ")
            raise
        except BrokenPipeError:  # the reader of our output has gone, as `| head` does
            _drop_output()
            raise typer.Exit(1) from None
        except OSError as error:
            _stop(_sentence(error))
        except MemoryError:
            _stop("Out of memory: use fewer --workers or a smaller --batch-size.")
        except KeyboardInterrupt:
            _stop("Stopped. Nothing finished is lost: run the same command again to continue.", 130)


def _sentence(error: OSError) -> str:
    why = os.strerror(error.errno) if error.errno else str(error)
    if getattr(sys.stdout, "failed", False):
        _drop_output()
        return f"Cannot write to standard output ({why})."
    place = error.filename or "a file"
    return f"{place}: {why}. Nothing finished is lost: fix this and run the same command again."


def _drop_output() -> None:
    """What is not written yet goes nowhere: Python would fail on it once more at its end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(sentence: str, code: int = 1) -> None:
    _say(f"Error: {sentence}" if code == 1 else sentence)
    raise typer.Exit(code)


def _say(sentence: str) -> None:
    with suppress(OSError):  # where standard error is full, the exit code has to do
        typer.echo(sentence, err=True)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ffhqref {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Build reference datasets of faces as FFHQ-Ref was built, and restore faces with them.

    \b
    ffhqref build-refs --images photos --out mine     photographs -> a dataset
    ffhqref COMMAND --help                            all options, with an example
    """
