"""Pieces of an HTML page: curves as SVG, tables, images within the text. Whatever is shown is escaped here."""
import base64
import io
import math
from html import escape

from PIL import Image

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 480, 280, 62, 46, 12, 14  # of a chart and its margins, in its own units
QUALITY = 90  # of JPEG
DOTTED = 40  # epochs up to which each value is a dot that tells its number


def data_uri(image):
    """A uint8 array (H, W, 3) as a data URI: PNG or JPEG, whichever is smaller."""
    files = []
    for kind, options in (('png', {'optimize': True}), ('jpeg', {'quality': QUALITY, 'subsampling': 0})):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        files.append((file.tell(), kind, file.getvalue()))
    _, kind, data = min(files)
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def table(caption, head, rows, marked=()):
    """A table. head: rows of (text, columns that it spans); rows: the first cell of each names it; marked: indices of
    rows that are set apart."""
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


def chart(title, series):
    """A figure of curves over the epochs. series: {name: [one an epoch, nan where there was none]}; '' if all are nan.

    Where values differ by more than a factor of ten, their axis is logarithmic.
    """
    series = {name: values for name, values in series.items() if any(map(math.isfinite, values))}
    finite = [value for values in series.values() for value in values if math.isfinite(value)]
    if not finite:
        return ''
    log = min(finite) > 0 and max(finite) > 10 * min(finite)
    ticks = log_ticks(min(finite), max(finite)) if log else even_ticks(min(finite), max(finite))
    epochs = max(map(len, series.values()))
    low, high = (min(finite) / 1.3, max(finite) * 1.3) if log else (ticks[0], ticks[-1])
    place = math.log if log else float

    def x(epoch):
        return LEFT + (WIDTH - LEFT - RIGHT) * ((epoch - 1) / (epochs - 1) if epochs > 1 else 0.5)

    def y(value):
        share = (place(value) - place(low)) / ((place(high) - place(low)) or 1)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share

    ends = ', '.join(f'{name} {last(values):.4g}' for name, values in series.items())
    label = f'{title} over {epochs} epochs; at the end: {ends}'
    lines = [f'<figure class="chart"><figcaption>{escape(title)}</figcaption>',
             f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        lines.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>'
                     f'<text x="{LEFT - 8}" y="{y(tick) + 5:.1f}" text-anchor="end">{tick:.6g}</text>')
    for epoch in epoch_ticks(epochs):
        lines.append(f'<text x="{x(epoch):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{epoch}</text>')
    lines.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
                 f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">epoch</text>')
    for number, (name, values) in enumerate(series.items()):
        lines += curve(number % 6, name, values, x, y)
    lines.append('</svg><ul class="legend">')
    lines += [f'<li><svg viewBox="0 0 26 8" width="26" height="8" aria-hidden="true"><path class="s{number % 6}" '
              f'd="M1 4H25"/></svg> {escape(name)}</li>' for number, name in enumerate(series)]
    return '\n'.join([*lines, '</ul></figure>'])


def curve(style, name, values, x, y):
    """The line of one series, broken where values are missing; single values are dots."""
    path, pen = [], 'M'
    for epoch, value in enumerate(values, 1):
        if math.isfinite(value):
            path.append(f'{pen}{x(epoch):.1f} {y(value):.1f}')
        pen = 'L' if math.isfinite(value) else 'M'
    yield f'<path class="s{style}" d="{"".join(path)}"/>'
    if len(values) <= DOTTED:
        yield from (f'<circle class="d{style}" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="3">'
                    f'<title>{escape(name)}, epoch {epoch}: {value:.5g}</title></circle>'
                    for epoch, value in enumerate(values, 1) if math.isfinite(value))


def last(values):
    """The last value that is a finite number."""
    return next(value for value in reversed(values) if math.isfinite(value))


def even_ticks(low, high, n=5):
    """About n round numbers that span low to high."""
    if low == high:
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    span = high - low
    power = 10 ** math.floor(math.log10(span / n))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if span <= factor * power * n)
    return [float(number) * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def log_ticks(low, high):
    """Round numbers within low to high for a logarithmic axis: 1, 2, 5 times powers of ten, or these alone if many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 4 else (1,)
    ticks = [float(f'{factor}e{power}') for power in powers for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside or [low, high]


def epoch_ticks(epochs, n=8):
    """Whole numbers up to `epochs`, about n."""
    step = max(1, round(even_ticks(0, epochs, n)[1]))
    return range(step, epochs + 1, step)
