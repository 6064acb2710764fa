"""HTML and SVG made of escaped pieces: nothing that came from outside can become markup (pure)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal


class Html(str):
    """Text that is markup already; every other text is escaped on its way in."""

    __slots__ = ()


Piece = str | None | Iterable["Piece"]


def el(tag: str, *children: Piece, **attributes: str | float | None) -> Html:
    """One element. Attribute names: `class_` is `class`, `_` inside is `-`; an attribute that is None is left out."""
    attributes_text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{attributes_text}>{join(children)}</{tag}>")


def join(pieces: Iterable[Piece]) -> Html:
    return Html("".join(_escaped(piece) for piece in pieces))


def _escaped(piece: Piece) -> str:
    if piece is None or isinstance(piece, Html):
        return piece or ""
    return html.escape(piece) if isinstance(piece, str) else join(piece)


def number_text(value: Decimal | float) -> str:
    """`12,345`, with decimals only where they are not zero."""
    is_whole = float(value).is_integer() or abs(float(value)) >= 100
    return f"{value:,.0f}" if is_whole else f"{value:,.1f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[Piece]], *, numbers: Iterable[int] = ()) -> Html:
    """A table of text; columns of these places hold numbers and stand to the right."""
    right = frozenset(numbers)

    def cells(tag: str, row: Sequence[Piece], **attributes: str) -> list[Html]:
        return [el(tag, cell, class_="number" if at in right else None, **attributes) for at, cell in enumerate(row)]

    head = el("thead", el("tr", cells("th", headings, scope="col")))
    body = el("tbody", [el("tr", cells("td", row)) for row in rows])
    return el("div", el("table", head, body), class_="wide")


@dataclass(frozen=True)
class Bar:
    """One horizontal bar: how long it is, what it is called, what is said behind it; `tone` is its colour's class."""

    label: str
    value: float
    said: str
    tone: str = "plain"


def bars(headings: tuple[str, str], rows: Sequence[Bar]) -> Html:
    """Horizontal bars in a table: each row has its number, too."""
    most = max((row.value for row in rows), default=0) or 1
    body = [
        el(
            "tr",
            el("th", row.label, scope="row"),
            el("td", _bar(100 * row.value / most, row.tone), class_="bar"),
            el("td", row.said, class_="number"),
        )
        for row in rows
    ]
    head = el("tr", el("th", headings[0], scope="col"), el("td"), el("th", headings[1], scope="col", class_="number"))
    return el("table", el("thead", head), el("tbody", body), class_="bars")


def _bar(percent: float, tone: str) -> Html:
    rect = el("rect", width=f"{percent:.2f}", height="10", class_=tone)
    return el("svg", rect, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true", focusable="false")


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 380, 170, 30, 10, 22


def columns(title: str, values: Sequence[float], labels: Sequence[str], *, label_every: int = 1) -> Html:
    """Upright columns, one a value, with a scale at the left and every so-manieth label below; no unit is stretched."""
    top = _round_up(max(values, default=0))
    floor = _HEIGHT - _BOTTOM
    step = (_WIDTH - _LEFT) / max(len(values), 1)
    parts = [el("title", title)]
    for share in (0, 0.5, 1):
        y = floor - share * (floor - _TOP)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(el("text", number_text(top * share), x=_LEFT - 5, y=f"{y + 4:.1f}", text_anchor="end"))
    for at, (value, label) in enumerate(zip(values, labels, strict=True)):
        height = value / top * (floor - _TOP)
        x = _LEFT + at * step + step * 0.12
        said = el("title", f"{label}: {number_text(value)}")
        parts.append(
            el(
                "rect",
                said,
                x=f"{x:.1f}",
                y=f"{floor - height:.1f}",
                width=f"{step * 0.76:.1f}",
                height=f"{height:.1f}",
                class_="plain",
            )
        )
        if at % label_every == 0:
            middle = _LEFT + (at + 0.5) * step
            parts.append(el("text", label, x=f"{middle:.1f}", y=_HEIGHT - 6, text_anchor="middle"))
    return el("svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=title, class_="columns")


def _round_up(most: float) -> float:
    """The top of a scale whose middle is a whole number too: 2, 4, 10, 20, 40, 100, …"""
    steps = (float(first * 10**power) for power in range(12) for first in (2, 4, 10))
    return next((step for step in steps if step >= most), most)
