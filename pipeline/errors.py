"""What chi33 raises: one sentence that says what was wrong, the value, and the remedy."""


class InputError(ValueError):
    """The input is unusable as it stands; the command line exits with code 2."""


class StepError(RuntimeError):
    """A processing step failed; the command line exits with code 1."""


class Chi33Warning(UserWarning):
    """Something the user should know that does not stop the work."""
