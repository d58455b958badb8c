"""The command line: parse, call one stage, print one summary. Heavy modules are imported by the commands.

In: words from a shell. Out: text for a person, and an exit code: 0, 1 with a sentence that says what to do, 2
for words that are no command, 130 after Ctrl-C. Read `app` (the app and its errors), `options` (options that
several commands share, and those of a recipe), then a file per group of commands.
"""

from ffhqref.cli.app import app

from ffhqref.cli import build, degrade, evaluate, demo, download, export, judge, report, restore, train  # isort: skip  (order of --help)
from ffhqref.cli import forget  # isort: skip

__all__ = [
    "app", "build", "degrade", "demo", "download", "evaluate", "export", "forget", "judge", "main", "report",
    "restore", "train",
]  # fmt: skip


def main() -> None:
    """Entry point of `ffhqref` and `python -m ffhqref`."""
    app(prog_name="ffhqref")
