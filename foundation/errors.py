"""The one error a person sees as a sentence instead of a traceback."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(ValueError):
    """What the user asked for cannot be done.

    The message is one or two sentences that name the key, path, shape or file and say what to do.
    The commands print it alone and leave with exit code 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to end a sentence with: the nearest known word, else the whole list."""
    known = sorted(set(known))
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known)}." if known else "none is known."


@contextmanager
def told_as_sentences() -> Iterator[None]:
    """Print a UserError alone and leave with exit code 2; any other error keeps its traceback."""
    try:
        yield
    except UserError as mistake:
        print(*(f"error: {line}" for line in str(mistake).splitlines()), sep="\n", file=sys.stderr)
        sys.exit(2)
