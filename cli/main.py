"""The `chi33` command: its commands, and errors as one sentence with exit code 2 (input) or 1 (step)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from .. import __version__
from ..pipeline.errors import Chi33Warning, InputError, StepError

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

app = App(
    name="chi33",
    help="Raw multi-orientation gradient-echo scans to susceptibility labels, stores and trained QSM networks.",
    version=__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)
for _command, _help in COMMANDS.items():
    app.command(f"chi33.cli.{_command}:{_command}", name=_command.replace("_", "-"), help=_help)


def _show_warning(message: Warning | str, category: type[Warning], *details: object, **more: object) -> None:
    if issubclass(category, Chi33Warning):
        print(f"chi33: warning: {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (a step failed), 2 (bad input) or 130 (interrupted)."""
    warnings.showwarning = _show_warning
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"chi33: {' '.join(str(error).split())} (see --help)", file=sys.stderr)
        sys.exit(2)
    except InputError as error:
        print(f"chi33: {error}", file=sys.stderr)
        sys.exit(2)
    except StepError as error:
        print(f"chi33: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("chi33: interrupted; repeat the command to go on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
