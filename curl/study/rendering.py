"""Sections of a report -> a terminal page, Markdown, or HTML in one file."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from curl.study.sections import Rows, Section
from curl.tables import table

CAPTIONS = {
    "scores": "Every run (small dots), IQM and its 95 % interval.",
    "curves": "IQM over seeds with 95 % bootstrap bands; thin lines are single runs.",
    "aggregates": "Aggregates of normalised scores with 95 % intervals.",
    "profiles": "Performance profiles: a curve further to the upper right is better.",
    "improvement": "Probability of improvement with 95 % intervals.",
    "looks": "Return (IQM over seeds) on each look; the colour is its ratio to the training look.",
    "returns": "Evaluations so far: single runs (thin), and the IQM of runs with the same label, "
    "where all of them have been evaluated (thick).",
    "training": "Metrics of training so far, one line per run, in the colour of its label.",
}
PNG = b"\x89PNG"  # what such a file begins with
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd }
.table { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #e4e4e4 }
th, td { white-space: nowrap }
th { background: #f5f5f5 }
figure { margin: 1.2rem 0 }
img { max-width: 100%; height: auto }
figcaption, .fine { color: #555; font-size: .9rem }
"""


def terminal(title: str, sections: Sequence[Section], console: Console) -> None:
    """Print bullets and tables; what is only a figure or fine print is left to the files."""
    console.print(Text(title, style="bold"))
    for section in sections:
        if section.fine_print or not (section.bullets or section.table):
            continue
        console.print()
        console.print(Text(section.title, style="bold"))
        for line in section.bullets:
            console.print(Text(f"• {line}"), soft_wrap=True)
        if section.table:
            head, *rows = section.table
            console.print(table(head, rows, width=console.width))


def markdown(
    title: str, sections: Sequence[Section], captions: Mapping[str, str] = CAPTIONS
) -> str:
    """GitHub Markdown; figures are the PNG files beside it."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        if section.bullets:
            parts.append("\n".join(f"- {line}" for line in section.bullets))
        if section.table:
            head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in section.table)
            lines = [head, ["---"] * len(head), *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts += [
            f"![{captions[name]}]({name}.png)\n\n{captions[name]}" for name in section.figures
        ]
    return "\n\n".join(parts) + "\n"


def page(
    title: str,
    sections: Sequence[Section],
    images: Mapping[str, bytes],
    captions: Mapping[str, str] = CAPTIONS,
    *,
    refresh: float | None = None,
) -> str:
    """One HTML file that fetches nothing: figures lie within it.

    Args:
        images: name of a figure -> the content of its PNG or SVG file.
        captions: name of a figure -> what stands below it.
        refresh: seconds after which a browser reads the file again; None: never.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.bullets:
            kind = ' class="fine"' if section.fine_print else ""
            items = "".join(f"<li>{html.escape(line)}</li>" for line in section.bullets)
            parts.append(f"<ul{kind}>{items}</ul>")
        if section.table:
            parts.append(_html_table(section.table))
        for name in section.figures:
            data, caption = base64.b64encode(images[name]).decode(), html.escape(captions[name])
            kind = "png" if images[name].startswith(PNG) else "svg+xml"
            image = f'<img alt="{caption}" src="data:image/{kind};base64,{data}">'
            parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    if refresh is not None:
        head += f'<meta http-equiv="refresh" content="{max(math.ceil(refresh), 1)}">'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html_table(rows: Rows) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    head, *body = rows
    inside = (
        f"<thead>{line(head, 'th')}</thead><tbody>{''.join(line(r, 'td') for r in body)}</tbody>"
    )
    return f'<div class="table"><table>{inside}</table></div>'
