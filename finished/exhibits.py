"""What callbacks have left in a run's folder as parts of an HTML page, whichever callbacks those are."""

import base64
import math
from pathlib import Path

from finished.html import Html, html
from foundation.run_files import KINDS_OF_PICTURES, Cell, pictures_in, read_table, tables_in

MOST_PICTURES = 12  # a run
MOST_ROWS, MOST_COLUMNS = 20, 14  # a table
MOST_LETTERS = 400  # a cell


def pictures_of(folder: Path, title: str = "Pictures", most: int = MOST_PICTURES) -> Html:
    """Whatever callbacks have left in the folder, of a series over iterations the latest."""
    paths = pictures_in(folder)
    if not paths:
        return html("")
    left = len(paths) - most
    more = html('<p class="dim">and {} more in the run\'s folder</p>', left) if left > 0 else None
    shown = [figure(path) for path in paths[:most]]
    return html('<h2>{}</h2><div class="pictures">{}</div>{}', title, shown, more)


def figure(path: Path) -> Html:
    kind = "card pixels" if path.parent.name == "images" else "card"
    name = path.stem.replace("_", " ")
    return html(
        '<figure class="{}"><img src="{}" alt="{name}"><figcaption>{name}</figcaption></figure>',
        kind,
        data_uri(path),
        name=name,
    )


def data_uri(path: Path) -> str:
    kind = KINDS_OF_PICTURES[path.suffix.lower()]
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def tables_of(folder: Path) -> Html:
    """The tables that callbacks have left in the folder, as far as there is room."""
    shown = [table(path) for path in tables_in(folder)]
    return html("<h2>Tables</h2>{}", shown) if shown else html("")


def table(path: Path) -> Html:
    heading, rows = read_table(path)
    columns = heading[:MOST_COLUMNS]
    lines = [[html("<th>{}</th>", name) for name in columns]]
    lines += [list(map(entry, row[: len(columns)])) for row in rows[:MOST_ROWS]]
    of = [f"{most} of {count:,} {what}" for what, count, most in
          (("rows", len(rows), MOST_ROWS), ("columns", len(heading), MOST_COLUMNS)) if count > most]  # fmt: skip
    name = f"{path.stem.replace('_', ' ')} ({', '.join(of)}: {path.name})" if of else path.stem.replace("_", " ")
    body = [html("<tr>{}</tr>", line) for line in lines]
    return html('<div class="card scroll"><h3>{}</h3><table>{}</table></div>', name, body)


def entry(value: Cell) -> Html:
    if isinstance(value, int | float):
        return html('<td class="number">{}</td>', value if isinstance(value, int) else number(value))
    text = value or ""
    return html("<td>{}</td>", text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…")


def number(value: float) -> str:
    """Four digits that a person can read; a value that is not finite as it is."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if 0.001 <= abs(value) < 100 else f"{value:.4g}"
