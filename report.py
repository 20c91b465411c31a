"""The table of one test run, for the terminal and as CSV, Markdown and JSON, with the published numbers beside ours."""
import csv
import io
import json
import math
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import protocol
from store import write_bytes

WIDTH = 100  # characters of a line on the terminal: a table with more columns is cut into blocks


class TestRun(NamedTuple):
    """One test of all sets. name, scale: the protocol's; line: how the scores were made, in one line;
    sets: {test set: [(degradation, mean PSNR, mean SSIM), ...]}, in the protocol's order for every set."""
    name: str
    scale: int
    line: str
    sets: dict
    __test__ = False  # no test case, whatever pytest makes of its name

    @property
    def title(self):
        return f'{protocol.label(self.name)}, x{self.scale}'


class Group(NamedTuple):
    """Neighbouring columns: their common heading, each one's name and decimals; numbers: a tuple per degradation."""
    heading: str
    names: list
    decimals: list
    numbers: list


class Row(NamedTuple):
    """One line: what it shows, at which noise level (None: all of them), a number or None for each column."""
    blur: str
    noise: float | None
    cells: list


class Table(NamedTuple):
    """What every format shows: columns by group, rows by kind."""
    groups: list
    degradations: list
    means: list
    published: list

    @property
    def columns(self):
        """(full name, decimals) of every column."""
        return [(f'{group.heading} {name}', decimals)
                for group in self.groups for name, decimals in zip(group.names, group.decimals, strict=True)]

    @property
    def rows(self):
        return [*self.degradations, *self.means, *self.published]


def table(run):
    """The Table of a TestRun: a row per degradation; means per noise level, where there are several, and over all
    degradations; what was published, as columns where it is known per degradation, otherwise as rows."""
    groups = list(_groups(run))
    rows = []
    for (degradation, *_), *numbers in zip(next(iter(run.sets.values())), *(g.numbers for g in groups), strict=True):
        blur = str(degradation).rpartition(', noise ')[0]
        rows.append(Row(blur, degradation.noise.item(), [number for part in numbers for number in part]))
    levels = list(dict.fromkeys(row.noise for row in rows))
    overall = levels[0] if len(levels) == 1 else None
    means = [_mean(level, [row for row in rows if row.noise == level]) for level in levels if len(levels) > 1]
    return Table(groups, rows, [*means, _mean(overall, rows)], list(_published_rows(run, overall)))


def _groups(run):
    for name, scores in run.sets.items():
        yield Group(name, ['PSNR', 'SSIM'], [2, 4], [(psnr, ssim) for _, psnr, ssim in scores])
        known = [entry for entry in protocol.published(run.name, run.scale, name) if entry.each]
        if known:
            yield Group(f'{name} published PSNR', [entry.method for entry in known], [2] * len(known),
                        list(zip(*(entry.each for entry in known), strict=True)))


def _mean(noise, rows):
    return Row('mean', noise, [fmean(column) for column in zip(*(row.cells for row in rows), strict=True)])


def _published_rows(run, noise):
    """Published means of PSNR and SSIM, a row per method, None on the sets it was not published for."""
    known = {(name, entry.method): (entry.psnr, entry.ssim) for name in run.sets
             for entry in protocol.published(run.name, run.scale, name) if not entry.each}
    for method in dict.fromkeys(method for _, method in known):
        cells = [number for name in run.sets for number in known.get((name, method), (None, None))]
        yield Row(f'published: {method}', noise, cells)


def table_text(run):
    """For the terminal: the table in blocks no wider than WIDTH, unless a single set's name is."""
    shown = table(run)
    sections = [list(rows) for _, rows in groupby(shown.degradations, lambda row: row.noise)]
    sizes = [len(rows) for rows in (*sections, shown.means, shown.published) if rows]
    blocks = ['\n'.join(line.rstrip() for line in _ruled(block, sizes)) for block in _blocks(shown)]
    return '\n\n'.join([run.title, *blocks, '\n'.join(_notes(run, shown))]) + '\n'


def _blocks(shown):
    """Lists of lines, all equally wide, that begin with the same columns: heading, its underline, names, rows."""
    left = _aligned('', ['blur', 'noise'], [[row.blur, _level(row)] for row in shown.rows], '<>')
    block, start = left, 0
    for group in shown.groups:
        stop = start + len(group.names)
        cells = [list(map(_number, row.cells[start:stop], group.decimals)) for row in shown.rows]
        part = ['  ' + line for line in _aligned(group.heading, group.names, cells, '>' * len(group.names))]
        if block is not left and len(block[0] + part[0]) > WIDTH:
            yield block
            block = left
        block, start = [a + b for a, b in zip(block, part, strict=True)], stop
    yield block


def _aligned(heading, names, rows, sides):
    """Columns of text as equally wide lines: the heading over a line, the names, the rows."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = [' '.join(f'{text:{side}{width}}' for text, side, width in zip(row, sides, widths, strict=True))
             for row in (names, *rows)]
    width = max(len(heading), len(lines[0]))
    return [f'{heading:^{width}}', ('-' if heading else ' ') * width, *(f'{line:>{width}}' for line in lines)]


def _ruled(block, sizes):
    """The lines of a block with a rule over each section; sizes: how many rows each has."""
    yield from block[:3]
    start = 3
    for size in sizes:
        yield '-' * len(block[0])
        yield from block[start:start + size]
        start += size


def _level(row):
    return 'all' if row.noise is None else f'{row.noise:g}'


def _number(value, decimals):
    return '' if value is None else f'{value:.{decimals}f}'


def _notes(run, shown):
    """What stands beneath the table."""
    marked = shown.published or len(shown.groups) > len(run.sets)
    return [f'Published numbers: {protocol.SOURCE}'] * bool(marked) + [f'Protocol: {run.line}']


def table_markdown(run):
    shown = table(run)
    names = ['blur', 'noise', *(name.replace('|', r'\|') for name, _ in shown.columns)]
    rows = [[row.blur, _level(row), *map(_number, row.cells, (decimals for _, decimals in shown.columns))]
            for row in shown.rows]
    _, _, header, *lines = _aligned('', names, rows, '<' + '>' * (len(names) - 1), ' | ')
    return ''
