"""What chi33 raises: one sentence that says what was wrong, the value, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """The input is unusable as it stands; the command line exits with code 2."""


class InputProblems(InputError):
    """Everything that is wrong with an input in one report: a problem's sentence, or their count and a line for each.

    problems: the sentences, each once; hint: what can be done all the same, a sentence.
    """

    def __init__(self, problems: Sequence[str], hint: str = "") -> None:
        self.problems = tuple(dict.fromkeys(problems))
        if len(self.problems) == 1:
            super().__init__(" ".join(filter(None, (self.problems[0], hint))))
        else:
            lines = [f"The input has {len(self.problems)} problems:", *(f"- {line}" for line in self.problems)]
            super().__init__("\n".join(filter(None, (*lines, hint))))

    @staticmethod
    def of(error: InputError) -> tuple[str, ...]:
        """Return the sentences of any input error."""
        return error.problems if isinstance(error, InputProblems) else (str(error),)


class StepError(RuntimeError):
    """A processing step failed; the command line exits with code 1."""


class Chi33Warning(UserWarning):
    """Something the user should know that does not stop the work."""
