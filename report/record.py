"""The results in a run folder, read back: curves, scores, tables."""
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from store.checkpoint import Run
from store.files import read_text
from utility import UserError, shown


class Scored(NamedTuple):
    """The newest test of a set under a degradation. degradation: text; pipeline: the dict of the same;
    scores: {image: {metric: value}}; images: {image: file} of those that were kept."""
    set_name: str
    degradation: str
    pipeline: dict
    scores: dict
    images: dict


def read_history(folder: Path, stage: int, note: Callable[[str], None]) -> dict:
    """{'losses': {name: [one an epoch]}, metric: {test set: [...]}} from the newest checkpoint; {} if none is left.

    note(text): called for each damaged one. Raises UserError if all of them are damaged.
    """
    run = Run(folder, stage)
    return run.start(-1, False, note)['history'] if run.positions() else {}


def read_best(folder: Path, stage: int) -> dict:
    """{'epoch', 'set', 'metric', 'value'} of the best weights, {} if there are none."""
    return Run(folder, stage).best()


def read_tables(folder: Path) -> list[dict]:
    """The contents of every results/protocol_*.json, as report.table_json writes them. Raises UserError."""
    tables = []
    for path in sorted((Path(folder) / 'results').glob('protocol_*.json')):
        try:
            tables.append(json.loads(read_text(path)))
        except ValueError as error:
            raise UserError(f'{shown(path)}: damaged ({error}); test again to write it anew') from error
    return tables


def read_scores(folder: Path) -> list[Scored]:
    """A Scored for each results/<set>_<degradation>.csv, by set and the degradation's numbers. Raises UserError."""
    found = []
    for path in sorted((Path(folder) / 'results').glob('*.csv')):
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline='')))
        if path.name.startswith('protocol_') or not rows:
            continue
        try:
            scores = {row.pop('image'): row for row in rows}
            (name, degradation, pipeline), *_ = [[row.pop(key) for key in ('set', 'degradation', 'pipeline')]
                                                 for row in rows]
            scores = {image: {metric: float(value) for metric, value in row.items()} for image, row in scores.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'{shown(path)}: no table of image scores ({error}); test again') from error
        kept = {image: file for image in scores for file in [_kept(path.with_suffix(''), image)] if file}
        found.append(Scored(name, degradation, json.loads(pipeline), scores, kept))
    return sorted(found, key=lambda each: (each.set_name, _numbers(each.pipeline)))


def _numbers(pipeline):
    """The numbers of a Pipeline's dict in its order."""
    return [value for step in pipeline['steps'] for value in step.values() if isinstance(value, int | float)]


def _kept(folder, image):
    """The file of a super-resolved image, None if it was not kept."""
    return next((file for scale in (2, 3, 4) if (file := folder / f'{image}_x{scale}.png').is_file()), None)
