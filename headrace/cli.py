"""The command line: wires the commands together, and turns every error into one line and an exit code.

Commands stand in commands_*.py by topic. Nothing heavy is imported before a command that needs it runs.
"""

import os
import sys
from collections.abc import Sequence

import typer

from contract.errors import HeadraceError, UnreachableError
from headrace import (
    commands_data,
    commands_evaluate,
    commands_lag,
    commands_namespace,
    commands_recall,
    commands_stack,
    commands_train,
)

INTERRUPTED = 130
UNREACHABLE = UnreachableError.exit_code
CLIENTS = {"cimpl", "confluent_kafka", "redis"}  # packages by name: importing them takes longer than most commands
app = typer.Typer(
    name="headrace",
    help="The recall stage of a recommender that learns while people click.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help comes in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (
    commands_stack,
    commands_recall,
    commands_lag,
    commands_data,
    commands_namespace,
    commands_evaluate,
    commands_train,
):
    commands.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `headrace` and exit."""
    try:
        code = app(args=arguments, prog_name="headrace", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        code = _say(f"{error.format_message()} (`headrace --help`)", error.exit_code)
    except HeadraceError as error:
        code = _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _say("interrupted", INTERRUPTED)
    except BrokenPipeError:  # `headrace tail clicks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if not is_outside(error):
            raise
        code = _say(f"{type(error).__name__}: {error}", UNREACHABLE)
    sys.exit(code if isinstance(code, int) else 0)


def is_outside(error: Exception) -> bool:
    """Whether Kafka, Redis or the system failed, which is no bug of ours and needs no traceback."""
    packages = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(packages & CLIENTS)


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"headrace: {' '.join(text.split())}\n")
    return code


if __name__ == "__main__":
    main()
