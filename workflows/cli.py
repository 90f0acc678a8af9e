"""`unclip`: finds the subcommands, one per file in commands/, and imports only what is asked for.

A command file defines `command`, a click command or group. Its name is the file's name with _ as -.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import click

from . import commands
from .commands._stopping import ended_as_by_ctrl_c
from .document.graph import WorkflowError
from .terminal import echo, echo_lines, log_to_terminal


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(
            name.replace("_", "-") for _, name, _ in pkgutil.iter_modules(commands.__path__) if name[0] != "_"
        )

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        return importlib.import_module(f".{name.replace('-', '_')}", commands.__name__).command


def _say_version(context: click.Context, option: click.Option, wanted: bool) -> None:
    if not wanted:
        return
    import importlib.metadata

    try:
        version = importlib.metadata.version("unclip")
    except importlib.metadata.PackageNotFoundError:
        version = "of a checkout that is not installed"
    echo(f"unclip {version}")
    context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show Python's traceback of an error.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_say_version,
    help="The version.",
)
@click.pass_context
def unclip(context: click.Context, debug: bool) -> None:
    """unCLIP (DALL-E 2) from saved graphs: the editor's JSON files, run without an editor."""
    context.obj = {"debug": debug}


def main() -> None:
    """The console command. Exit codes, of every subcommand (docs/headless.md): 0 done, or a check says yes; 1 work
    that had begun failed, or a check says no; 2 what was given cannot be used; 128 + the signal that ended it."""
    log_to_terminal()
    with ended_as_by_ctrl_c() as ended:
        code = run(sys.argv[1:])
    sys.exit(128 + ended.number if code == 130 and ended.number else code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors go to stderr, one line each."""
    debug = "--debug" in arguments
    try:
        result = unclip.main(arguments, prog_name="unclip", standalone_mode=False)
    except WorkflowError as error:
        for problem in error.problems:
            echo(f"error: {problem}", err=True)
        return 2
    except click.exceptions.NoArgsIsHelpError as error:
        echo_lines(error.ctx.get_help())
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        echo_lines("\ninterrupted; files already written are whole", err=True)
        return 130
    except Exception as error:
        if debug:
            raise
        echo(f"error: {_one_line(error)}", err=True)
        # Our own errors about what was given are ValueErrors; anything else went wrong on the way, a node's refusal of
        # its inputs too: other nodes have run, and as a row of many it is 1 as well.
        return 2 if isinstance(error, ValueError | FileNotFoundError) else 1
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
