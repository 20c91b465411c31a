"""Elements of an HTML page: charts, tables, embedded images. All text is escaped here."""
import base64
import io
from collections.abc import Container, Sequence
from html import escape
from math import isfinite

import numpy as np
from PIL import Image

from report.plots import Curves, curves, style, svg

QUALITY = 90  # of JPEG


def _uri(kind: str, data: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def data_uri(image: np.ndarray) -> str:
    """A uint8 array (H, W, 3) as a data URI: PNG or JPEG, whichever is smaller."""
    files = []
    for kind, options in (('png', {'optimize': True}), ('jpeg', {'quality': QUALITY, 'subsampling': 0})):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        files.append((file.tell(), kind, file.getvalue()))
    _, kind, data = min(files)
    return _uri(kind, data)


def table(caption: str, head: Sequence, rows: Sequence, marked: Container[int] = ()) -> str:
    """A table. head: rows of (text, columns spanned); rows: the first cell of each is its heading; marked: indices of
    highlighted rows."""
    lines = [f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>',
             f'<caption>{escape(caption)}</caption><thead>']
    for cells in head:
        lines.append('<tr>' + ''.join(f'<th scope="{"colgroup" if span > 1 else "col"}" colspan="{span}">{escape(text)}'
                                      '</th>' if text else f'<td colspan="{span}"></td>' for text, span in cells)
                     + '</tr>')
    lines.append('</thead><tbody>')
    for number, (name, *cells) in enumerate(rows):
        kind = ' class="marked"' if number in marked else ''
        lines.append(f'<tr{kind}><th scope="row">{escape(name)}</th>'
                     + ''.join(f'<td>{escape(cell)}</td>' for cell in cells) + '</tr>')
    return '\n'.join([*lines, '</tbody></table></div>'])


def chart(title: str, label: str, series: Curves, losses: bool = False) -> str:
    """A figure of curves over the epochs, for light and dark pages; '' if no value is finite. label: of the vertical
    axis; losses: as in plots.curves."""
    series = {name: values for name, values in series.items() if any(map(isfinite, values))}
    if not series:
        return ''
    uris = []
    for dark in False, True:
        with style(dark):
            uris.append(_uri('svg+xml', svg(curves(label, series, losses))))
    ends = ', '.join(f'{name} {last(values):.4g}' for name, values in series.items())
    text = f'{title} over {max(map(len, series.values()))} epochs; at the end: {ends}'
    return (f'<figure class="chart"><figcaption>{escape(title)}</figcaption><picture>'
            f'<source media="(prefers-color-scheme: dark)" srcset="{uris[1]}">'
            f'<img src="{uris[0]}" alt="{escape(text)}"></picture></figure>')


def last(values: list[float]) -> float:
    """The last value that is finite."""
    return next(value for value in reversed(values) if isfinite(value))
