"""Commands run in this process."""

from __future__ import annotations

import json

from isogloss.cli import main


def run(*arguments):
    """Run a command in this process; return its exit code."""
    return main([str(argument) for argument in arguments])


def printed(capsys):
    """The JSON that the last command printed on stdout."""
    return json.loads(capsys.readouterr().out)
