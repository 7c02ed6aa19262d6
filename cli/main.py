"""The `chi33` command: its commands, their help, and every failure as one sentence with an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from cyclopts import App

from .. import __version__
from ..files.errors import Chi33Warning
from . import failures, streams
from .command_help import describe
from .store_options import joined_bounds

COMMANDS = {
    "simulate": "Simulate multi-orientation scans of heads, with their truth.",
    "convert": "Convert DICOM to a raw BIDS data set.",
    "plan": "Show how well head orientations determine COSMOS and the tensor.",
    "run": "Turn raw multi-orientation scans into label maps and a report.",
    "fit": "Fit COSMOS and the tensor to fields made elsewhere.",
    "build_dataset": "Pack label maps into an HDF5 store.",
    "import_volumes": "Pack field, label and mask files made elsewhere into an HDF5 store.",
    "inspect": "Show what a store holds, draw patches of it, and check it.",
    "export": "Write a store in the layouts that published codes read.",
    "train": "Train a network on a store.",
    "predict": "Predict susceptibility from one field map.",
    "evaluate": "Compare predictions with truth in a table.",
}
_HELP = ("--help", "-h")

app = App(
    name="chi33",
    help="Raw multi-orientation gradient-echo scans to susceptibility labels, stores and trained QSM networks.",
    help_epilogue=(
        "`chi33 COMMAND --help` explains a command and ends with examples.\n\n"
        "Exit codes: 0 done; 1 a step failed; 2 the input or the command line is wrong; 130 interrupted. "
        f"An error is one sentence; with the environment variable {failures.DEBUG}=1 its traceback is shown too."
    ),
    help_flags=_HELP,
    version=__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
# Commands whose arguments may be left out, but only with --print-config.
_USAGE = {
    "run": "Usage: chi33 run [OPTIONS] BIDS_DIR OUT_DIR [participant]",
    "train": "Usage: chi33 train [OPTIONS] STORE RUN_DIR",
}

for _command, _help in COMMANDS.items():
    app.command(
        f"chi33.cli.{_command}:{_command}", name=_command.replace("_", "-"), help=_help, usage=_USAGE.get(_command)
    )


def _show_warning(message: Warning | str, category: type[Warning], *details: object, **more: object) -> None:
    if issubclass(category, Chi33Warning):
        print(f"chi33: warning: {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (a step failed), 2 (bad input) or 130 (interrupted)."""
    warnings.showwarning = _show_warning
    streams.make_tolerant()
    words = joined_bounds(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), "")
    try:
        try:
            if set(words) & set(_HELP) and command.replace("-", "_") in COMMANDS:
                describe(app[command])
            app(words, exit_on_error=False, print_error=False)
        finally:
            streams.flush()
    except SystemExit as stop:  # of a command, or of rich where its pipe was closed
        sys.exit(failures.NO_READER if failures.is_closed_pipe(stop) else stop.code)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(_end(error, command))


def _end(error: BaseException, command: str) -> int:
    """Say what failed and return the exit code; without a word where nobody reads the output any more."""
    if failures.is_closed_pipe(error) and streams.reader_has_gone():
        streams.discard_output()
        return failures.NO_READER
    sentence, code = failures.explain(error, command)
    try:
        print(f"{failures.trace(error)}chi33: {sentence}", file=sys.stderr, flush=True)
        streams.flush()
    except OSError:
        streams.discard_output()
    return code


if __name__ == "__main__":
    main()
