"""What a person types, made into what Hydra reads as it was meant, or refused with how to write it.

Flags may stand anywhere. A value that Hydra's grammar has no place for (``a=b``, ``photo (1).jpg``, ``Bücher``,
``~/x``) is a text and is quoted; ``glob(...)`` is written out; ``--config-dir`` becomes ``hydra.searchpath``.
"""

import argparse
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from foundation.errors import UserError, did_you_mean
from launch.composition import CONF, SEARCHPATH, composing, in_quotes, options_of

REFUSED = {
    "config_path": "would take the place of conf/: keep your own files in a folder beside it, --config-dir <folder>.",
    "config_name": "would take the place of conf/{name}.yaml: write what is yours into an experiment, as in "
    "--config-dir <folder> experiment=mine",
    "experimental_rerun": "builds a job from a pickled file: train.py resume=<folder> goes on with a run.",
}
ALONE = ("multirun", "run", "cfg", "info", "shell_completion")
SETTING = re.compile(r"(?P<key>[+~]{0,2}[\w./@$:-]+)=(?P<value>.*)", re.DOTALL)
STRUCTURES = ("[", "{", "'", '"')
PLAIN_PATH = re.compile(r"[\w./-]*/[\w./-]*", re.ASCII)


def readable(name: str, arguments: Sequence[str], texts: Sequence[str] = ()) -> list[str]:
    """The arguments of ``<name>.py`` as Hydra can read them, flags first; again they stay as they are.

    Args:
        texts: keys whose values are texts, whatever Hydra would make of them (``run=12``).
    """
    flags = flags_in(arguments)
    check_flags(name, flags)
    words = flags.overrides
    shows = flags.cfg or flags.info or flags.help or flags.hydra_help
    if name == "train" and not shows and any(re.fullmatch(r"sweep=(?!null$).+", it) for it in words):
        flags.multirun = True  # a sweep is of several jobs; the files of conf/sweep cannot say so in Hydra 1.4
    if flags.shell_completion:
        return [*given(flags), *words]
    several = flags.multirun or any(it.startswith(("sweep=", "hydra.mode=MULTIRUN")) for it in words)
    kept = [it if it.startswith("resume=") else quoted(it, several, texts) for it in words]
    kept = with_places(kept, flags.config_dir)
    flags.config_dir = None
    return [*given(flags), *written_out(kept, several)]


def flags_in(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags, wherever they stand, and the other words as ``overrides``."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"The command line cannot be read: {message}")

    parser.error = refuse  # pyright: ignore[reportAttributeAccessIssue]
    flags, unknown = parser.parse_known_intermixed_args([*arguments])
    if unknown:
        word = unknown[0].lstrip("-")
        raise UserError(
            f"{unknown[0]} is no flag of this command: settings are written without dashes, as key=value, as in "
            f"{word if '=' in word else word + '=...'}"
        )
    return flags


def given(flags: argparse.Namespace) -> list[str]:
    """The flags as arguments."""
    words = []
    for name, value in vars(flags).items():
        if name != "overrides" and value not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    return words


def check_flags(name: str, flags: argparse.Namespace) -> None:
    asked = vars(flags)
    for flag, reason in REFUSED.items():
        own = {"config_name": name, "config_path": "conf"}.get(flag)
        if asked[flag] not in (None, own):
            raise UserError(f"--{flag.replace('_', '-')}={asked[flag]} {reason.format(name=name)}")
    chosen = [f"--{it.replace('_', '-')}" for it in ALONE if asked[it] not in (None, False)]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} cannot be asked for together: leave out {chosen[0]}.")
    if flags.resolve and not (flags.cfg or flags.help):
        raise UserError("--resolve belongs to --cfg, as in --cfg job --resolve")
    if flags.shell_completion and not flags.overrides:
        raise UserError("--shell-completion needs to know the shell, as in --shell-completion install=bash")


def quoted(word: str, several: bool, texts: Sequence[str]) -> str:
    """A word as Hydra reads it: its value in quotes where Hydra would stumble over it, or take a text for a number.

    Args:
        several: whether a comma may part the values of a sweep.
    """
    setting = SETTING.fullmatch(word)
    if setting is None and not re.fullmatch(r"~[\w./@]+", word):
        raise UserError(
            f"'{word}' is no setting: it is written key=value without blanks around the '=', and ~key leaves one out."
        )
    key, value = setting.groups() if setting else (word, "")
    is_text = key in texts and value and not several and value[0] not in "'\"" and not PLAIN_PATH.fullmatch(value)
    if not is_text and can_be_read(word):  # what has a meaning keeps it
        return word
    value = str(Path(value).expanduser()) if value.startswith("~/") else value
    parts = value.split(",") if several else [value]
    cure = f"{key}={','.join(in_quotes(it.strip(), cure=True) for it in parts)}"
    functions = "|".join(OverridesParser.create().functions.functions)
    structure = value.startswith(STRUCTURES) or re.match(rf"({functions})\(", value) or (several and "," in value)
    if not is_text and (structure or not can_be_read(f"{key}={in_quotes(value)}")):
        raise UserError(
            f"The command line cannot be read: Hydra knows no value such as {word}; as a text it stands in quotes: "
            f"{shlex.quote(cure)}"
        )
    return f"{key}={in_quotes(value)}"


def can_be_read(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def with_places(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """``hydra.searchpath`` with what ``--config-dir`` names, as absolute places; each is there and hides nothing."""
    lines = [it for it in overrides if it.startswith(f"{SEARCHPATH}=")]
    parsed: list[Any] = [OverridesParser.create().parse_override(it).value() for it in lines[-1:]]
    if parsed and not (isinstance(parsed[0], list) and all(isinstance(it, str) for it in parsed[0])):
        raise UserError(f"{lines[-1]} is no list of folders: write --config-dir <folder>, or {SEARCHPATH}=[<folder>].")
    places = [str(it) for it in (*(parsed[0] if parsed else ()), *([config_dir] if config_dir else ()))]
    if not places:
        return [*overrides]
    found = []
    for place in places:
        if place.startswith("pkg://"):
            found.append(in_quotes(place))
            continue
        folder = Path(place.removeprefix("file://")).expanduser().absolute()
        check_own_files(folder)
        found.append(in_quotes(f"file://{folder}"))
    return [*(it for it in overrides if it not in lines), f"{SEARCHPATH}=[{','.join(dict.fromkeys(found))}]"]


def check_own_files(folder: Path) -> None:
    """Hydra takes the first file of a name without a word, and that is the one of conf/."""
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder.")
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder)
        if (CONF / name).exists():
            raise UserError(f"{path} would be hidden by conf/{name}, which has the same name: call it otherwise.")


def written_out(overrides: Sequence[str], several: bool) -> list[str]:
    """The overrides with the files of a group in place of ``glob(...)``."""
    if not several or not any("glob(" in it for it in overrides):
        return [*overrides]
    parser = OverridesParser.create()
    with composing() as loader:
        return [
            expanded(it, options_of(it.key_or_group, overrides, loader)) for it in map(parser.parse_override, overrides)
        ]


def expanded(override: Override, options: Iterable[str]) -> str:
    line, raw = override.input_line or "", override._value
    members = getattr(raw, "list", raw) if override.is_sweep_override() else None
    members = members if isinstance(members, list) else [members]
    if not any(isinstance(it, Glob) for it in members):
        return line
    if not options:
        raise UserError(f"{line}: {override.key_or_group} is no group of files of conf/ to choose from.")
    values = []
    for it in members:
        matching = it.filter(list(options)) if isinstance(it, Glob) else [str(it)]
        if isinstance(it, Glob) and not matching:
            raise UserError(f"{line}: no file of conf/{override.key_or_group} matches; {did_you_mean('', options)}")
        values += matching
    return f"{line.partition('=')[0]}={','.join(dict.fromkeys(values))}"
