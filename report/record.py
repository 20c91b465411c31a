"""Reading the results in a run folder: curves, scores, tables."""
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
    """The newest test of a set under a degradation. degradation: as text; pipeline: as dict; scores: {image: {metric:
    value}}; images: {image: file} of the saved ones."""
    set_name: str
    degradation: str
    pipeline: dict
    scores: dict
    images: dict


def read_history(folder: Path, stage: int, note: Callable[[str], None]) -> dict:
    """{'losses': {name: [one per epoch]}, metric: {test set: [...]}} of the newest checkpoint; {} if there is none.

    note(text): called for each damaged checkpoint. Raises UserError if all are damaged.
    """
    run = Run(folder, stage)
    return run.start(-1, False, note)['history'] if run.positions() else {}


def read_best(folder: Path, stage: int) -> dict:
    """{'epoch', 'set', 'metric', 'value'} of the best weights, {} if there are none."""
    return Run(folder, stage).best()


def read_tables(folder: Path) -> list[dict]:
    """The content of every results/protocol_*.json, written by report.table. Raises UserError."""
    tables = []
    for path in sorted((Path(folder) / 'results').glob('protocol_*.json')):
        try:
            tables.append(json.loads(read_text(path)))
        except ValueError as error:
            raise UserError(f'{shown(path)}: damaged ({error}); test again to write it anew') from error
    return tables


def read_scores(folder: Path) -> list[Scored]:
    """A Scored for each results/<set>_<degradation>.csv, sorted by set and degradation. Raises UserError."""
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
            raise UserError(f'{shown(path)}: not a table of image scores ({error}); test again') from error
        kept = {image: file for image in scores for file in [_kept(path.with_suffix(''), image)] if file}
        found.append(Scored(name, degradation, json.loads(pipeline), scores, kept))
    return sorted(found, key=lambda each: (each.set_name, _numbers(each.pipeline)))


def _numbers(pipeline):
    """The numbers in a Pipeline's dict, in order."""
    return [value for step in pipeline['steps'] for value in step.values() if isinstance(value, int | float)]


def _kept(folder, image):
    """The file of a super-resolved image, None if it was not saved."""
    return next((file for scale in (2, 3, 4) if (file := folder / f'{image}_x{scale}.png').is_file()), None)
