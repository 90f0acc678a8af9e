"""What the commands print, and nothing else does: it may hold a stranger's text."""

from __future__ import annotations

import logging

import click

from ..unclip_core.texts import printable


def echo(text: str, err: bool = False) -> None:
    """Print one line, whatever is in the text."""
    click.echo(printable(text), err=err)


def echo_lines(text: str, err: bool = False) -> None:
    """Print a text of ours that has several lines. A stranger's text in it went through `printable` before."""
    for line in text.split("\n"):
        echo(line, err)


class OneLine(logging.Formatter):
    """A log record's message as one line; a traceback keeps its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Called by `format`, before it adds the traceback."""
        return printable(super().formatMessage(record))


def log_to_terminal() -> None:
    """Print the log's warnings and errors on stderr, and what else a logger lets through."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
