"""Curves as inline SVG: no script, no font, no colour of its own, so that a page's style decides in light and dark."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finished.html import Html, html
from foundation.metrics import key_of_today
from foundation.published import TESTED

WIDTH, HEIGHT = 420.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 10.0, 26.0
MOST_POINTS = 400  # a curve; the eye sees no more on this width


@dataclass
class Curve:
    """Values over iterations; those that are not finite are gaps."""

    name: str
    iterations: list[int]
    values: list[float]


def read_curves(path: Path, name: str) -> dict[str, Curve]:
    """Every column of ``metrics.csv``, by its key of today, over iterations done; a kill may have left half a line."""
    curves: dict[str, Curve] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for row in csv.DictReader(lines):
        for key, value in row.items():
            if key in (None, "step", "epoch") or not str(row.get("step")).isdigit() or as_number(value) is None:
                continue
            curve = curves.setdefault(key_of_today(key), Curve(name, [], []))
            curve.iterations.append(int(row["step"]) + (not key.startswith(TESTED)))
            curve.values.append(float(value))
    return {key: curve for key, curve in sorted(curves.items()) if curve.values}


def as_number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def line_chart(curves: Sequence[Curve], label: str) -> Html:
    """One chart; the classes ``c0``, ``c1``, ... of its lines count the curves. ``label`` is for screen readers."""
    points = [point for it in curves for point in zip(it.iterations, it.values, strict=True) if math.isfinite(point[1])]
    if not points:
        return html("")
    right = max(iteration for iteration, _ in points)
    ticks = nice_ticks(min(value for _, value in points), max(value for _, value in points))
    across = [tick for tick in nice_ticks(0, right, 4) if tick <= right * 1.001]

    def x(iteration: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * iteration / max(right, 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts: list[Html] = []
    for tick in ticks:
        parts.append(html('<path class="grid" d="M{} {}H{}"/>', LEFT, f"{y(tick):.1f}", WIDTH - RIGHT))
        at = f"{y(tick) + 3.5:.1f}"
        parts.append(html('<text x="{}" y="{}" text-anchor="end">{}</text>', LEFT - 6, at, short(tick)))
    for tick in across:
        anchor = "end" if x(tick) > WIDTH - 40 else "middle"
        at = f"{x(tick):.1f}"
        parts.append(html('<text x="{}" y="{}" text-anchor="{}">{}</text>', at, HEIGHT - 8, anchor, short(tick)))
    for number, curve in enumerate(curves):
        pairs = zip(curve.iterations, curve.values, strict=True)
        kept = thinned([(x(at), y(value) if math.isfinite(value) else math.nan) for at, value in pairs])
        parts.append(drawn(kept, f"c{number % 8}", curve.name))
    box = f"0 0 {WIDTH:.0f} {HEIGHT:.0f}"
    return html('<svg viewBox="{}" role="img" aria-label="{}">{}</svg>', box, label, parts)


def drawn(points: list[tuple[float, float]], style: str, name: str) -> Html:
    """A path with a gap where a value is not finite; a dot where there is but one point."""
    seen = [(x, y) for x, y in points if math.isfinite(y)]
    if len(seen) == 1:
        place = [f"{it:.1f}" for it in seen[0]]
        return html('<circle class="{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>', style, *place, name)
    commands, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            commands.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L" if math.isfinite(y) else "M"
    return html('<path class="line {}" d="{}"><title>{}</title></path>', style, commands, name)


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS of them, evenly, with the last."""
    step = -(-len(points) // MOST_POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that enclose the range: 1, 2 or 5 times a power of ten apart."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis: 20000 is 20k, 0.00017 is 1.7e-4."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    if 1e-12 < abs(value) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"
