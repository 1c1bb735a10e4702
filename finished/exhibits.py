"""What callbacks have left in a run's folder as parts of an HTML page, whichever callbacks those are."""

import base64
import math
from html import escape
from pathlib import Path

from foundation.run_files import KINDS_OF_PICTURES, Cell, pictures_in, read_table, tables_in

MOST_PICTURES = 12  # a run
MOST_ROWS, MOST_COLUMNS = 20, 14  # a table
MOST_LETTERS = 400  # a cell


def pictures_of(folder: Path, title: str = "Pictures", most: int = MOST_PICTURES) -> str:
    """Whatever callbacks have left in the folder, of a series over iterations the latest."""
    paths = pictures_in(folder)
    shown = "".join(figure(path) for path in paths[:most])
    more = f'<p class="dim">and {len(paths) - most} more in the run\'s folder</p>' if len(paths) > most else ""
    return f'<h2>{escape(title)}</h2><div class="pictures">{shown}</div>{more}' if shown else ""


def figure(path: Path) -> str:
    kind = "card pixels" if path.parent.name == "images" else "card"
    name = escape(path.stem.replace("_", " "))
    return f'<figure class="{kind}"><img src="{data_uri(path)}" alt="{name}"><figcaption>{name}</figcaption></figure>'


def data_uri(path: Path) -> str:
    kind = KINDS_OF_PICTURES[path.suffix.lower()]
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def tables_of(folder: Path) -> str:
    """The tables that callbacks have left in the folder, as far as there is room."""
    shown = "".join(table(path) for path in tables_in(folder))
    return f"<h2>Tables</h2>{shown}" if shown else ""


def table(path: Path) -> str:
    heading, rows = read_table(path)
    columns = heading[:MOST_COLUMNS]
    lines = ["".join(f"<th>{escape(name)}</th>" for name in columns)]
    lines += ["".join(map(entry, row[: len(columns)])) for row in rows[:MOST_ROWS]]
    of = [f"{most} of {count:,} {what}" for what, count, most in
          (("rows", len(rows), MOST_ROWS), ("columns", len(heading), MOST_COLUMNS)) if count > most]  # fmt: skip
    name = f"{path.stem.replace('_', ' ')} ({', '.join(of)}: {path.name})" if of else path.stem.replace("_", " ")
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="card scroll"><h3>{escape(name)}</h3><table>{body}</table></div>'


def entry(value: Cell) -> str:
    if isinstance(value, int | float):
        return f'<td class="number">{value if isinstance(value, int) else number(value)}</td>'
    text = value or ""
    return f"<td>{escape(text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + '…')}</td>"


def number(value: float) -> str:
    """Four digits that a person can read; a value that is not finite as it is."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if 0.001 <= abs(value) < 100 else f"{value:.4g}"
