"""The command line: parse, call one stage, print one summary. Everything heavy is imported in the commands.

Read `app` (the app and its errors), `options` (what several commands share), then a file per group of
commands.
"""

from ffhqref.cli.app import app

from ffhqref.cli import build, degrade, demo, download, judge, restore, train  # isort: skip  (order of --help)

__all__ = ["app", "build", "degrade", "demo", "download", "judge", "main", "restore", "train"]


def main() -> None:
    """Entry point of `ffhqref` and `python -m ffhqref`."""
    app()
