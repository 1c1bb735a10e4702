"""HTML that cannot hold what a run's files smuggle in: whatever is no ``Html`` is escaped where it is put in."""

from collections.abc import Iterable
from html import escape
from typing import Any, LiteralString


class Html(str):
    """Text that is HTML. Only ``html`` makes it, of the project's own words."""

    __slots__ = ()


def html(template: LiteralString, *values: Any, **named: Any) -> Html:
    """The template with values in its ``{}``: escaped unless they are Html, lists joined, None as nothing."""
    return Html(template.format(*map(escaped, values), **{name: escaped(value) for name, value in named.items()}))


def escaped(value: Any) -> Html:
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        return Html("".join(map(escaped, value)))
    return Html(escape(str(value), quote=True))
