"""Which code a run was made by: the commit, and what lies in the tree that no commit holds.

A file counts where the run could have imported or composed it: Python in the rooms of the platform or imported by this
process, the configs, and what names the installed packages. A note beside the code makes no run another.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from foundation.whole_files import whole

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("foundation", "datamodules", "lightning_modules", "callbacks", "launch")
IMPORTABLE, COMPOSABLE = (".py", ".so", ".pyd"), (".yaml", ".yml")
INSTALLED = ("pyproject.toml", "requirements.lock")
DIFF = ("diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
MOST_BYTES = 1 << 20  # of a patch
MOST_NAMED = 5
SECRET_NAME = re.compile(
    r"^\.env|\.(?:pem|p12|pfx)$|netrc|secret|credential|passw|(?:api|access|private|ssh)[_-]?key"
    r"|^id_(?:rsa|dsa|ecdsa|ed25519)"
)
SECRET_NAME_OF_DATA = re.compile(r"(?:^|[^a-z])(?:keys?|keyfile|tokens?|auth)(?:[^a-z]|$)")  # tokens.py holds none
SECRET_CONTENT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|\b(?:ghp_|gho_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AKIA)[\w-]{16,}"
    rb"|\bkey[\"']?\s*[:=]\s*[\"']?[0-9a-f]{40}\b"
    rb"|(?:api_?key|token|secret|password)[\"']?\s*[:=]\s*(?P<quote>[\"'])(?=\S*\d)(?=\S*[a-z])[\w+/.=-]{16,}(?P=quote)"
    rb"|(?:api_?key|token|secret|password)\s*:\s*(?=\S*\d)(?=\S*[a-z])[\w+/=-]{16,}\s*$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class SourceTree:
    """A commit and what differs from it among the files that count, each with how: ``changed``, ``new``, ...

    ``commit`` is None outside a git checkout.
    """

    commit: str | None
    changes: dict[str, str]

    @property
    def clean(self) -> bool | None:
        return not self.changes if self.commit else None

    def names(self) -> list[str]:
        return [path if how == "changed" else f"{path} ({how})" for path, how in sorted(self.changes.items())]


def source_tree(composed_from: Iterable[Path] = (), root: Path = ROOT) -> SourceTree:
    """The tree as it is, together with what it was when this process first looked: its modules may be of then.

    Args:
        composed_from: folders with configs beside ``conf``.
    """
    first, now = first_look(root), look(root)
    if now.commit is None:
        return now
    if first.commit != now.commit:
        held = f"{short(first.commit)} when this process began, {short(now.commit)} now"
        now = SourceTree(now.commit, now.changes | {"the commit": held})
    outside = {str(it): "configs from outside the project" for it in composed_from if not it.is_relative_to(root)}
    inside = [f"{it.relative_to(root).as_posix()}/" for it in composed_from if it.is_relative_to(root)]
    composed = {path: how for path, how in changed_files(root).items()
                if path.startswith(tuple(inside)) and path.endswith(COMPOSABLE)}  # fmt: skip
    return SourceTree(now.commit, first.changes | composed | outside | now.changes)


@cache
def first_look(root: Path) -> SourceTree:
    return look(root)


def look(root: Path) -> SourceTree:
    commit = git("rev-parse", "HEAD", root=root)
    if commit is None:
        return SourceTree(None, {})
    imported, changed = imported_files(root), changed_files(root)
    ignored = imported - set(listed(root, "ls-files")) - changed.keys()
    counting = {path: how for path, how in changed.items() if path in imported or could_be_used(path)}
    return SourceTree(commit, counting | dict.fromkeys(ignored, "ignored by git"))


def changed_files(root: Path) -> dict[str, str]:
    """Paths below the root that differ from the commit or are in none; those that git ignores are left out."""
    changed = dict.fromkeys(listed(root, "diff", "--name-only", "--relative", "--no-renames", "HEAD"), "changed")
    return changed | dict.fromkeys(listed(root, "ls-files", "--others", "--exclude-standard"), "new")


def could_be_used(path: str) -> bool:
    file = PurePosixPath(path)
    if path in INSTALLED:
        return True
    return (file.suffix in IMPORTABLE and file.parts[0] in ROOMS) or (
        file.suffix in COMPOSABLE and file.parts[0] == "conf"
    )


def imported_files(root: Path) -> set[str]:
    """The project's own files among the modules of this process, the entry point included.

    Some modules, torch's among them, name files that are none.
    """
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    named = {Path(it).absolute() for it in files if it and "site-packages" not in it}
    own = {it for it in named if it.is_file()}  # torch gives modules of its own names of files that are nowhere
    installed = Path(sys.prefix).absolute()
    return {
        it.relative_to(root).as_posix()
        for it in own
        if it.is_relative_to(root) and not it.is_relative_to(installed) and it.is_file()
    }


# --- the patch ---------------------------------------------------------------------------------------------------


def write_patch(tree: SourceTree, path: Path, root: Path = ROOT) -> dict[str, str]:
    """What ``git apply`` makes of the commit the code that ran; returns the files that are left out, and why."""
    left_out: dict[str, str] = {}
    sections, size = [], 0
    for name, how in sorted(tree.changes.items()):
        section = b"" if how not in ("changed", "new") else difference(name, how, root)
        if how not in ("changed", "new"):
            left_out[name] = how
        elif (how == "new" and is_secret_name(name)) or SECRET_CONTENT.search(section):
            left_out[name] = "may hold a secret"
        elif size + len(section) > MOST_BYTES:
            left_out[name] = "too large"
        else:
            sections.append(section)
            size += len(section)
    with whole(path) as unfinished:
        unfinished.write_bytes(b"".join(sections))
    return left_out


def difference(name: str, how: str, root: Path) -> bytes:
    if how == "changed":
        return git_output(root, *DIFF, "--relative", "--no-renames", "HEAD", "--", name) or b""
    return git_output(root, *DIFF, "--no-index", "--", "/dev/null", name, differs=True) or b""


def is_secret_name(path: str) -> bool:
    file = PurePosixPath(path.lower())
    return bool(SECRET_NAME.search(file.name) or (file.suffix != ".py" and SECRET_NAME_OF_DATA.search(file.name)))


def warning(tree: SourceTree, left_out: dict[str, str], patch: Path) -> str | None:
    """One line for the start of a run that no commit will stand for."""
    if tree.clean:
        return None
    if tree.clean is None:
        return "This is no git checkout, so no commit stands for this run: `make record` would refuse it."
    names = tree.names()
    named = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    without = "".join(f", without {name} ({why})" for name, why in list(left_out.items())[:MOST_NAMED])
    return (
        f"Not committed: {named}. No commit stands for this run, so `make record` would refuse it; "
        f"{patch} keeps the changes{without}."
    )


# --- git ---------------------------------------------------------------------------------------------------------


def git(*arguments: str, root: Path = ROOT) -> str | None:
    """What git prints of the project's tree; None outside a checkout or without git."""
    output = git_output(root, *arguments)
    return None if output is None else output.decode(errors="replace").strip()


def listed(root: Path, *arguments: str) -> list[str]:
    """The paths that a command of git's lists, relative to the root."""
    output = git_output(root, *arguments, "-z") or b""
    return [it.decode(errors="replace") for it in output.split(b"\0") if it]


def git_output(root: Path, *arguments: str, differs: bool = False) -> bytes | None:
    """With ``differs`` the exit status 1 says that two files differ, as it does of ``git diff --no-index``."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode in ((0, 1) if differs else (0,)) else None


def short(commit: str | None) -> str:
    return commit[:7] if commit else "none"
