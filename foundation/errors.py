"""The one error a person sees as a sentence instead of a traceback."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(ValueError):
    """What the user asked for cannot be done.

    The message is one or two sentences that name the key, path, shape or file and say what to do.
    The commands print it alone and leave with exit code 2.
    """


UNFIT_VALUES = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, MemoryError, RuntimeError)
"""What a constructor raises for values that it cannot work with."""


def in_one_line(error: BaseException) -> str:
    """The first line of what an error says, behind its kind where that tells more than that a value is wrong."""
    first = (str(error).splitlines() or [""])[0].strip()
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{first}" if first else type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to end a sentence with: the nearest known word, else the whole list."""
    known = sorted(set(known))
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known)}." if known else "none is known."


NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def not_written(error: BaseException | None) -> str | None:
    """Of a disk that is full or may not be written to, a sentence that names the file; None of any other error.

    torch makes an error of its own out of such a one, and noting it may fail too: the first stands behind the others.
    """
    told = None
    while error is not None:
        if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
            told = f"{error.filename or 'A file'} could not be written: {os.strerror(error.errno).lower()}."
        error = error.__cause__ or error.__context__
    return told


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have a disk's error name the file, which a write to an open one leaves out."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        behind: BaseException | None = error
        while behind is not None:
            if isinstance(behind, OSError):
                behind.filename = behind.filename or os.fspath(path)
            behind = behind.__cause__ or behind.__context__
        raise


@contextmanager
def told_as_sentences() -> Iterator[None]:
    """Print a UserError alone, or that a file could not be written, and leave with exit code 2 or 1.

    Any other error keeps its traceback.
    """
    try:
        yield
    except UserError as mistake:
        print(*(f"error: {line}" for line in str(mistake).splitlines()), sep="\n", file=sys.stderr)
        sys.exit(2)
    except (OSError, RuntimeError) as error:
        if (reason := not_written(error)) is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(1)
