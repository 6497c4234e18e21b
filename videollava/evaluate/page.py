"""HTML written by us: elements that escape their text, tables, and the self-contained page around them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["Markup", "clip", "document", "join", "section", "table", "tag"]

STYLE = Path(__file__).with_name("page.css")
VOID = frozenset(("img", "meta", "br"))
# Half of a surrogate pair cannot be written as UTF-8, and control characters have no place in HTML.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# Nothing is loaded from anywhere and nothing runs, whatever a prediction says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Markup(str):
    """HTML: text that `tag` takes as it is. Any other text is escaped."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element. Attribute names lose a last `_` and have `-` for `_`; None leaves one out."""
    given = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{_escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>" if name in VOID else f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Parts one after the other, plain text escaped."""
    return Markup("".join(part if isinstance(part, Markup) else _escape(part) for part in parts))


def clip(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1, caption: str = "") -> Markup:
    """A table whose first `texts` columns hold text and whose others hold figures.

    On a narrow screen a row becomes a block of labelled lines.
    """
    styles = ["text" if place < texts else "number" for place in range(len(heads))]
    head = tag("tr", *(tag("th", h, scope="col", class_=s) for h, s in zip(heads, styles, strict=True)))
    lines = []
    for first, *rest in rows:
        cells = zip(rest, heads[1:], styles[1:], strict=True)
        lead = tag("th", first, scope="row", class_="text")
        lines.append(tag("tr", lead, *(tag("td", c, data_label=h, class_=s) for c, h, s in cells)))
    title = tag("caption", caption) if caption else Markup("")
    body = tag("table", title, tag("thead", head), tag("tbody", *lines))
    return tag("div", body, class_="scroll")


def section(key: str, title: str, *children: str) -> Markup:
    """A part of the page with a heading that links to itself by `key`."""
    return tag("section", tag("h2", title), *children, id=key)


def document(title: str, *body: str) -> str:
    """The whole page; it asks for nothing from outside."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *body)), lang="en") + "\n"


def _number(value: str | float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    return html.escape(UNPRINTABLE.sub("\ufffd", text))
