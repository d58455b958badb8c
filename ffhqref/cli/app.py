"""The Typer app, and how errors become sentences and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ffhqref import __version__
from ffhqref.core.store import UserError


class Commands(TyperGroup):
    """Turns what the user can fix into one sentence and exit code 1; `--debug` shows the traceback."""

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
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            place = error.filename or "a file"
            _stop(
                f"{place}: {os.strerror(error.errno) if error.errno else error}. Nothing finished is lost: "
                "fix this and run the same command again."
            )
        except MemoryError:
            _stop("Out of memory: use fewer --workers or a smaller --batch-size.")
        except KeyboardInterrupt:
            _stop("Stopped. Nothing finished is lost: run the same command again to continue.", 130)


def _stop(sentence: str, code: int = 1) -> None:
    typer.echo(f"Error: {sentence}" if code == 1 else sentence, err=True)
    raise typer.Exit(code)


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
