"""The table of one test, with published results beside ours, for the terminal and as CSV, Markdown and JSON."""
import csv
import io
import json
import math
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from data import protocol
from report import metric
from store.files import write_bytes

WIDTH = 100  # characters of a line on the terminal: wider tables are split into blocks


class TestRun(NamedTuple):
    """One test of all sets. name, scale: the protocol's; line: how the scores were computed, in one line;
    sets: {test set: [(degradation, {metric: mean}), ...]}, in the protocol's order for every set;
    comparable: whether published results are comparable with ours."""
    name: str
    scale: int
    line: str
    sets: dict
    comparable: bool = True
    __test__ = False  # not a test case of pytest

    @property
    def title(self) -> str:
        """The heading of the table."""
        return f'{protocol.label(self.name)}, x{self.scale}'

    def published(self, set_name: str) -> list[protocol.Published]:
        """The published results of one set."""
        return protocol.published(self.name, self.scale, set_name) if self.comparable else []


class Group(NamedTuple):
    """Adjacent columns with a common heading. names: {key in files: displayed name}; metrics: that of each column;
    numbers: a tuple per degradation."""
    heading: str
    names: dict
    metrics: list
    numbers: list


class Row(NamedTuple):
    """One row: its label, the noise level (None: all levels), a number or None for each column, and its degradation as
    a dict, if there is one."""
    blur: str
    noise: float | None
    cells: list
    degradation: dict | None = None


class Table(NamedTuple):
    """The content of a table in any format: groups of columns, and rows by kind."""
    groups: list
    degradations: list
    means: list
    published: list

    @property
    def columns(self) -> list[tuple[str, str, str]]:
        """(full name in files, full displayed name, metric) of every column."""
        return [(f'{group.heading} {name}', f'{group.heading} {title}', own) for group in self.groups
                for (name, title), own in zip(group.names.items(), group.metrics, strict=True)]

    @property
    def rows(self) -> list[Row]:
        """All rows, from top to bottom."""
        return [*self.degradations, *self.means, *self.published]


def table(run: TestRun) -> Table:
    """The Table of a TestRun: a row per degradation; means per noise level, if there are several, and over all
    degradations; published results, as columns if known per degradation, otherwise as rows."""
    groups, rows = list(_groups(run)), []
    degradations = [degradation for degradation, *_ in next(iter(run.sets.values()))]
    for degradation, *numbers in zip(degradations, *(group.numbers for group in groups), strict=True):
        rows.append(Row(*degradation.columns(), [number for part in numbers for number in part], degradation.to_dict()))
    levels = list(dict.fromkeys(row.noise for row in rows))
    overall = levels[0] if len(levels) == 1 else None
    means = [_mean(level, [row for row in rows if row.noise == level]) for level in levels if len(levels) > 1]
    return Table(groups, rows, [*means, _mean(overall, rows)], list(_published_rows(run, overall)))


def _groups(run):
    for name, scores in run.sets.items():
        metrics = list(scores[0][1])
        yield Group(name, {each: metric.title(each) for each in metrics}, metrics,
                    [tuple(means.values()) for _, means in scores])
        known = [entry for entry in run.published(name) if entry.each and 'psnr_y' in metrics]
        if known:
            yield Group(f'{name} published PSNR', {entry.method: entry.method for entry in known},
                        ['psnr_y'] * len(known), list(zip(*(entry.each for entry in known), strict=True)))


def _mean(noise, rows):
    return Row('mean', noise, [fmean(column) for column in zip(*(row.cells for row in rows), strict=True)])


def _published_rows(run, noise):
    """Published means, a row per method, None for sets and metrics without a published result."""
    known = {(name, entry.method): {'psnr_y': entry.psnr, 'ssim_y': entry.ssim} for name in run.sets
             for entry in run.published(name) if not entry.each}
    for method in dict.fromkeys(method for _, method in known):
        cells = [known.get((name, method), {}).get(each) for name, scores in run.sets.items() for each in scores[0][1]]
        if any(cell is not None for cell in cells):
            yield Row(f'published: {method}', noise, cells)


def table_text(run: TestRun) -> str:
    """The table for the terminal, in blocks of at most WIDTH characters, unless one set needs more."""
    shown = table(run)
    levels = (list(rows) for _, rows in groupby(shown.degradations, lambda row: row.noise))
    sizes = [len(rows) for rows in (*levels, shown.means, shown.published) if rows]
    blocks = ['\n'.join(line.rstrip() for line in _ruled(block, sizes)) for block in _blocks(shown)]
    return '\n\n'.join([run.title, *blocks, '\n'.join(_notes(run, shown))]) + '\n'


def _blocks(shown):
    """Blocks, lists of equally wide lines that begin with the rows' labels: headings, underlines, names, rows."""
    left = _grouped('', _aligned(['blur', 'noise'], [_name(row) for row in shown.rows]))
    block, start = left, 0
    for group in shown.groups:
        stop = start + len(group.names)
        cells = [_texts(row.cells[start:stop], group.metrics) for row in shown.rows]
        part = ['  ' + line for line in _grouped(group.heading, _aligned([*group.names.values()], cells, '>'))]
        if block is not left and len(block[0] + part[0]) > WIDTH:
            yield block
            block = left
        block, start = [a + b for a, b in zip(block, part, strict=True)], stop
    yield block


def _aligned(names, rows, first='<', gap=' '):
    """Equally wide lines of names and rows, right-aligned columns; first: alignment of the first column."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    sides = [first, *'>' * (len(names) - 1)]
    return [gap.join(f'{text:{side}{width}}' for text, side, width in zip(row, sides, widths, strict=True))
            for row in (names, *rows)]


def _grouped(heading, lines):
    """`lines` below an underlined heading, all equally wide."""
    width = max(len(heading), len(lines[0]))
    return [f'{heading:^{width}}', ('-' if heading else ' ') * width, *(f'{line:>{width}}' for line in lines)]


def _ruled(block, sizes):
    """The lines of a block with a rule above each section; sizes: number of rows of each section."""
    yield from block[:3]
    start = 3
    for size in sizes:
        yield '-' * len(block[0])
        yield from block[start:start + size]
        start += size


def _name(row):
    known = 'all' if row.degradation is None else '-'
    return [row.blur, known if row.noise is None else f'{row.noise:g}']


def _texts(cells, metrics):
    return ['' if value is None else metric.number(name, value) for value, name in zip(cells, metrics, strict=True)]


def _exact(cells):
    return ['' if value is None else f'{value:.6f}' for value in cells]


def _notes(run, shown):
    """The lines below a table."""
    marked = shown.published or len(shown.groups) > len(run.sets)
    return [f'Published: {protocol.SOURCE}.'] * bool(marked) + [f'Protocol: {run.line}']


def table_markdown(run: TestRun) -> str:
    """A heading, one table of all columns, the notes."""
    shown = table(run)
    _, names, metrics = zip(*shown.columns, strict=True)
    rows = [[*_name(row), *_texts(row.cells, metrics)] for row in shown.rows]
    header, *lines = _aligned(['blur', 'noise', *(name.replace('|', r'\|') for name in names)], rows, gap=' | ')
    first, *others = ('-' * (len(cell) - 1) for cell in header.split(' | '))
    rule = ' | '.join([f':{first}', *(f'{dashes}:' for dashes in others)])
    lines = [f'| {line} |' for line in (header, rule, *lines)]
    return '\n'.join([f'### {run.title}', '', *lines, '', '  \n'.join(_notes(run, shown))]) + '\n'


def table_csv(run: TestRun) -> str:
    """The table as CSV; every row has the protocol and how the scores were computed."""
    shown = table(run)
    names, *_ = zip(*shown.columns, strict=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['protocol', 'blur', 'noise', *names, 'evaluation'])
    writer.writerows([run.title, *_name(row), *_exact(row.cells), run.line] for row in shown.rows)
    return text.getvalue()


def table_json(run: TestRun) -> str:
    """The table as JSON with unrounded numbers, {test set: {metric: mean}} in each row, and the metrics.

    inf and nan, which JSON lacks, are text.
    """
    shown = table(run)
    parts = {kind: [_json_row(row, shown.groups) for row in getattr(shown, kind)]
             for kind in ('degradations', 'means', 'published')}
    metrics = {name: {'title': metric.title(name), 'unit': metric.METRICS[name].unit,
                      'decimals': metric.METRICS[name].decimals,
                      'higher_is_better': metric.METRICS[name].higher_is_better}
               for scores in run.sets.values() for name in scores[0][1]}
    return json.dumps({'protocol': run.name, 'label': protocol.label(run.name), 'scale': run.scale,
                       'evaluation': run.line, 'metrics': metrics, 'published_source': protocol.SOURCE, **parts},
                      indent=1, allow_nan=False) + '\n'


def _json_row(row, groups):
    cells = iter(str(value) if value is not None and not math.isfinite(value) else value for value in row.cells)
    scores = {group.heading: {name: next(cells) for name in group.names} for group in groups}
    return {'blur': row.blur, 'noise': row.noise, 'degradation': row.degradation, 'scores': scores}


def write_tables(folder: Path, run: TestRun) -> list[Path]:
    """Write protocol_<name>.csv, .md and .json to `folder`; returns their paths. Raises UserError if that fails."""
    texts = {'csv': table_csv(run), 'md': table_markdown(run), 'json': table_json(run)}
    paths = [Path(folder) / f'protocol_{run.name}.{suffix}' for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_bytes(path, text.encode(errors='backslashreplace'))  # names of sets may not be valid UTF-8
    return paths
