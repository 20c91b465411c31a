"""What a run folder holds, read back: options, curves, scores, tables."""
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from option import NAMES, build_parser
from store.checkpoint import Run
from utility import UserError, shown


class Start(NamedTuple):
    """One start of the program: its date, its options as text."""
    date: str
    options: dict

    @property
    def stage(self) -> int:
        return int(self.options['stage'])

    @property
    def trains(self) -> bool:
        return self.options['test_only'] == 'False'

    def changed(self) -> dict[str, str]:
        """{option: text} of those that are not as the stage sets them."""
        parser = build_parser(self.stage, self.options['model'])
        return {name: text for name, text in self.options.items()
                if name in NAMES.values() and text != str(parser.get_default(name))}

    def argv(self) -> list[str]:
        """A command line that says the same, but for metrics, some of which may be registered elsewhere."""
        chosen = {'stage': self.options['stage'], 'model': self.options['model'], **self.changed()}
        return [f'--{name}={text}' for name, text in chosen.items() if name not in ('metrics', 'best')]


class Scored(NamedTuple):
    """The newest test of a set under a degradation. degradation: text; pipeline: the dict of the same;
    scores: {image: {metric: value}}; images: {image: file} of those that were kept."""
    set_name: str
    degradation: str
    pipeline: dict
    scores: dict
    images: dict


def read_starts(folder: Path) -> list[Start]:
    """The Starts that config.txt notes, oldest first. Raises UserError if it is not there or notes none."""
    path = Path(folder) / 'config.txt'
    starts = []
    for block in _text(path).split('\n\n'):
        date, *lines = block.strip('\n').split('\n')
        options = dict(line.split(': ', 1) for line in lines if ': ' in line)
        if options.get('stage') in ('1', '2', '3', '4') and {'model', 'test_only', 'scale'} <= options.keys():
            starts.append(Start(date, options))
    if not starts:
        raise UserError(f'{shown(path)}: notes no start of main.py; give the folder of a run, as experiment/stage4_...')
    return starts


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
            tables.append(json.loads(_text(path)))
        except ValueError as error:
            raise UserError(f'{shown(path)}: damaged ({error}); test again to write it anew') from error
    return tables


def read_scores(folder: Path) -> list[Scored]:
    """A Scored for each results/<set>_<degradation>.csv, by set and the degradation's numbers. Raises UserError."""
    found = []
    for path in sorted((Path(folder) / 'results').glob('*.csv')):
        rows = list(csv.DictReader(io.StringIO(_text(path), newline='')))
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


def _text(path):
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{shown(path)}: cannot be read ({getattr(error, "strerror", None) or error})') from error
