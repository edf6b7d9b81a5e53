"""The command line. Each command is one call of the Python interface, with a table or JSON around.

A command's module is imported when the command is used, and it imports what it needs inside its
function: `weft --help` and completion answer at once.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from weft.errors import WeftError, unknown

# In the order of a first session, which is also that of --help.
COMMANDS = {
    "demo": "about",
    "inspect": "making",
    "plan": "planning",
    "sparsity": "sparsity",
    "units": "nonlinear",
    "compile": "making",
    "export": "exporting",
    "run": "running",
    "check": "running",
    "eval": "running",
    "embed": "embedding",
    "generate": "generating",
    "perplexity": "generating",
    "bench": "measuring",
    "estimate": "running",
    "explore": "exploring",
    "build": "building",
    "lint": "checking",
    "export-unit": "checking",
    "list": "about",
    "doctor": "about",
}


class Commands(click.Group):
    """Finds a command in its module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names for --help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"weft.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest names for one that is unknown."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(unknown("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="weft")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Compiles quantized networks for FPGA overlays and runs them, bit for bit, in simulation."""
    ctx.ensure_object(dict)["debug"] = debug


def main(args: list[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code.

    0 done, 1 another error, 2 wrong usage, 3 model, 4 capacity or overlay, 5 program file,
    6 inputs, 7 device, 8 missing package, 9 build of a bitstream, 130 interrupted.
    """
    sys.exit(run(sys.argv[1:] if args is None else args))


def run(args: list[str]) -> int:
    """The exit code of `weft` with these arguments; a user's mistake becomes one message."""
    try:
        code = cli.main(args, prog_name="weft", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return 130
    except WeftError as error:
        if "--debug" in args:
            raise
        click.echo(f"{type(error).__name__}: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:  # `weft list ops | head`
        sys.stderr.close()
        return 1
    except OSError as error:  # a file or folder of the user's, where no closer message was found
        if "--debug" in args:
            raise
        click.echo(f"{error.filename or 'weft'}: {error.strerror or error}", err=True)
        return 1
