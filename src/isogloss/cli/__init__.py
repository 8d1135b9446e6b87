"""The command line: parse, call one use case, print. Data goes to stdout, all else to stderr."""

from isogloss.cli.main import main

__all__ = ["main"]
