"""`unclip`: finds the subcommands, one per file in commands/, and imports only what is asked for.

A command file defines `command`, a click command or group. Its name is the file's name with _ as -.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys

import click

from . import commands
from .commands._stopping import ended_as_by_ctrl_c
from .document.graph import WorkflowError


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(
            name.replace("_", "-") for _, name, _ in pkgutil.iter_modules(commands.__path__) if name[0] != "_"
        )

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        return importlib.import_module(f".{name.replace('-', '_')}", commands.__name__).command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show Python's traceback of an error.")
@click.pass_context
def unclip(context: click.Context, debug: bool) -> None:
    """unCLIP (DALL-E 2) from saved graphs: the editor's JSON files, run without an editor."""
    context.obj = {"debug": debug}


def main() -> None:
    """The console command. Exit codes: 0 done, 1 a failure while working, 2 something in what was given, 130 Ctrl-C,
    143 SIGTERM."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        with ended_as_by_ctrl_c() as ended:
            code = run(sys.argv[1:])
        sys.exit(128 + ended.number if code == 130 and ended.number else code)
    except BrokenPipeError:  # `unclip show ... | head`
        sys.stderr.close()
        sys.exit(0)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors go to stderr, one line each."""
    debug = "--debug" in arguments
    try:
        result = unclip.main(arguments, prog_name="unclip", standalone_mode=False)
    except WorkflowError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        return 2
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; files already written are whole", err=True)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        click.echo(f"error: {_one_line(error)}", err=True)
        # Our own errors about what was given are ValueErrors; anything else went wrong on the way.
        return 2 if isinstance(error.__cause__ or error, ValueError | FileNotFoundError) else 1
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
