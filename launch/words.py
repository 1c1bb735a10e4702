"""Run Python with the words that a make variable holds: ``python launch/words.py train.py @ARGS``.

``@ARGS`` stands for the words of the variable ARGS in the environment, which are split where a shell would split them,
quotes and all; but no shell reads them, so that nothing in them is run or expanded. ``@RUN`` stands for the folders of
RUN: one whose name may have blanks or, where there is none of that name, several, each a pattern or not.
"""

import glob
import os
import shlex
import sys


def words_of(variable: str) -> list[str]:
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        sys.exit(f"error: {variable}={text} cannot be split into words ({error}): close the quote or leave it out.")


def folders_of(variable: str) -> list[str]:
    text = os.environ.get(variable, "")
    if os.path.exists(text):
        return [text]
    return [found for word in words_of(variable) for found in sorted(glob.glob(word)) or [word]]


if __name__ == "__main__":
    command = []
    for argument in sys.argv[1:]:
        found = {"@ARGS": words_of, "@RUN": folders_of}.get(argument)
        command += [argument] if found is None else found(argument[1:])
    os.execv(sys.executable, [sys.executable, *command])
