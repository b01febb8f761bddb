"""The command line: wires the commands together, and turns every error into one line and an exit code.

Commands stand in commands_*.py by topic. Nothing heavy is imported before a command that needs it runs.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from contract.errors import BadInputError, HeadraceError, UnreachableError
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
    _open_streams()
    try:
        code = app(args=arguments, prog_name="headrace", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        code = _say(f"{error.format_message()} (`headrace --help`)", error.exit_code)
    except HeadraceError as error:
        code = _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _say("interrupted", INTERRUPTED)
    except UnicodeEncodeError:
        if all(map(_is_utf8, [*sys.argv, *os.environ.values()])):
            raise
        code = _say("an argument or a variable of the environment is not valid UTF-8", BadInputError.exit_code)
    except (BrokenPipeError, SystemExit) as error:  # `headrace tail clicks | head`; typer makes an exit of it
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
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


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that came as they were, as lone surrogates
        return False
    return True


def _open_streams() -> None:
    """Open what came closed (`>&-`) as the null device: its number would be given to a socket, and written to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (until the end)


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody hears it, the code still says it
        sys.stderr.write(f"headrace: {' '.join(text.split())}\n")
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
