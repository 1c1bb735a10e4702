"""One self-contained page of all methods: pictures, figures beside the papers', curves, commands.

    make gallery                                # writes docs/gallery.html
    python -m finished.gallery --check          # does it agree with results/ and the pages' pictures?

Figures are those of the tables (``finished/results.py``): for each method and data set the best founded record.
Pictures are those of the methods' pages, smaller. The page loads nothing.
"""

import argparse
import base64
import hashlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from finished.charts import Curve, line_chart
from finished.html import Html, html
from finished.results import (
    FEW,
    Record,
    best_of_each_method,
    load_experiments,
    load_results,
    measured_on,
    told_share,
)
from finished.tables import ROOT, methods_of, shown
from foundation.errors import told_as_sentences

STYLE = Path(__file__).with_name("report.css")
PAGE = Path("docs") / "gallery.html"
PICTURE = re.compile(r"!\[([^\]]*)\]\((?:\.\./|docs/)pictures/([\w.-]+)\)")
PAPER = re.compile(r"\*([^*]+)\*,\s+(\d{4}),\s+\[(arXiv:[\d.]+)\]\((https://arxiv\.org/abs/[\d.]+)\)", re.DOTALL)
COMMAND = re.compile(r"^(python train\.py [^#\n]+)", re.MULTILINE)
SOURCE = re.compile(r'src="data:[^"]*"')
WIDTH = 760  # of a picture; pixels
MOST_PICTURES = 2


@dataclass(frozen=True)
class Method:
    """What a page of docs/methods/ says of a method, and its records."""

    title: str
    page: str
    paper: tuple[str, str, str, str] | None
    """Title, year, arXiv's number and address."""
    command: str | None
    pictures: list[tuple[str, Path]]
    """Each with what it shows; the front page's first."""
    records: list[Record]


def methods(root: Path) -> list[Method]:
    experiments, results = load_experiments(root / "conf"), load_results(root / "results")
    pages_of = methods_of(experiments, root)
    best = list(best_of_each_method(experiments, results, {name: title for name, (title, _) in pages_of.items()}))
    front = (root / "README.md").read_text()
    found = []
    for path in sorted((root / "docs" / "methods").glob("*.md")):
        text = path.read_text()
        title = text.splitlines()[0].lstrip("# ")
        own = [it["name"] for it in experiments if pages_of[it["name"]][0] == title]
        paper = PAPER.search(text.partition("```")[0])
        command = COMMAND.search(text)
        found.append(
            Method(
                title,
                f"methods/{path.name}",
                None if paper is None else (" ".join(paper[1].split()), paper[2], paper[3], paper[4]),
                None if command is None else command[1].strip(),
                pictures_of(root, text, front, own),
                [it for it in best if it.experiment["name"] in own],
            )
        )
    return found


def pictures_of(root: Path, page: str, front: str, experiments: list[str]) -> list[tuple[str, Path]]:
    """Of a method's page, behind those of its experiments that the front page shows."""
    first = [it for it in PICTURE.findall(front) if any(it[1].startswith(name) for name in experiments)]
    found: dict[str, str] = {}
    for what, name in (*first, *PICTURE.findall(page)):
        found.setdefault(name, what)
    return [(what, root / "docs" / "pictures" / name) for name, what in found.items()][:MOST_PICTURES]


def page_of(found: list[Method]) -> Html:
    reached = sum(bool(it.records) for it in found)
    return html(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>Relight</title>\n'
        "<style>{}</style>\n</head>\n<body>\n<main>\n<h1>Relight</h1>\n"
        '<p class="lead">Influential papers, trained by one command each and measured exactly. Every figure is of '
        "recorded runs: on which data, of how much of the paper's recipe and by how many seeds stands below it. A "
        "paper's figure stands beside it only where data, split and metric are the paper's. {} of {} methods have a "
        "record.</p>\n"
        '<div class="methods">\n{}</div>\n</main>\n</body>\n</html>\n',
        Html(STYLE.read_text()), reached, len(found), [card(it) for it in found],
    )  # fmt: skip


def card(method: Method) -> Html:
    paper = html("")
    if method.paper:
        name, year, number, address = method.paper
        paper = html('{}, {}, <a href="{}">{}</a>', name, year, address, number)
    results = [result(it) for it in method.records] or [html('<div class="result"><b>no record yet</b></div>\n')]
    chart = next((it for it in map(curve, method.records) if it), html(""))
    return html(
        '<section class="method">\n<h2><a href="{}">{}</a></h2>\n<p class="paper">{}</p>\n{}{}{}{}</section>\n',
        method.page, method.title, paper, results, [figure(*it) for it in method.pictures], chart,
        html("<pre>{}</pre>\n", method.command) if method.command else None,
    )  # fmt: skip


def result(record: Record) -> Html:
    """A figure, what it is of, and by how much of the recipe."""
    run = record.runs[0]
    spread = record.reached().partition(" (")[0]
    beside = "" if record.of_paper is None else f"; the paper's is {record.of_paper:g}"
    how = f"{told_share(record.experiment, run)}, {record.over}"
    how += " (mean and spread)" if len(record.values) >= FEW else ""
    return html(
        '<div class="result"><b>{}</b><span class="of"><code>{}</code> on {}{}</span>'
        '<span class="how">{}; <code>experiment={}</code></span></div>\n',
        spread, shown(record.metric), measured_on(run), beside, how, record.experiment["name"],
    )  # fmt: skip


def curve(record: Record) -> Html | None:
    """The metric on validation data over the iterations, else the loss; None where the record keeps neither."""
    kept: dict[str, Any] = record.runs[0].get("curves", {})
    wanted = [f"val/{record.metric.partition('/')[2]}", "train/loss", *kept]
    for key in wanted:
        if key in kept:
            points = kept[key]
            drawn = line_chart([Curve(key, [at for at, _ in points], [value for _, value in points])], key)
            return html("<figure>{}<figcaption>{} over iterations</figcaption></figure>\n", drawn, key)
    return None


def figure(what: str, path: Path) -> Html:
    data = path.read_bytes()
    return html(
        '<figure><img alt="{}" data-sha256="{}" src="data:image/webp;base64,{}"><figcaption>{}</figcaption></figure>\n',
        # In lines, which browsers put together, so that nobody's search over files prints a picture.
        what, hashlib.sha256(data).hexdigest()[:16], base64.encodebytes(smaller(data)).decode(), what,
    )  # fmt: skip


def smaller(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        picture = picture.convert("RGB")
        if picture.width > WIDTH:
            picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        picture.save(written, "WEBP", quality=82)
    return written.getvalue()


def same_but_for_pixels(page: str, other: str) -> bool:
    """Other versions of a library compress a picture into other bytes; the hash of what it was made of stays."""
    return SOURCE.sub("", page) == SOURCE.sub("", other)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fails where the page is out of date")
    parser.add_argument("--out", type=Path, default=root / PAGE)
    asked = parser.parse_args(arguments)
    made = page_of(methods(root))
    if asked.check:
        if asked.out.exists() and same_but_for_pixels(asked.out.read_text(encoding="utf-8"), made):
            return 0
        print(f"{asked.out} disagrees with results/ or the pages; run `make gallery`.", file=sys.stderr)
        return 1
    asked.out.write_text(made, encoding="utf-8")
    print(asked.out)
    return 0


if __name__ == "__main__":
    with told_as_sentences():
        sys.exit(main())
