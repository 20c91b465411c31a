"""The starts of a run as config.txt records them: when it was started, and with which options."""
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from model import FAMILIES
from option import NAMES, build_parser
from store.files import read_text
from utility import VERSION, UserError, shown


class Start(NamedTuple):
    """One start of the program: its date and its options as text."""
    date: str
    options: dict[str, str]

    @property
    def stage(self) -> int:
        """The stage that was started."""
        return int(self.options['stage'])

    @property
    def trains(self) -> bool:
        """Whether it trained, rather than only tested."""
        return self.options['test_only'] == 'False'

    def changed(self) -> dict[str, str]:
        """{option: text} of those that differ from the stage's defaults (those of MRDA for an unknown family)."""
        parser = build_parser(self.stage, self.options['model'] if self.options['model'] in FAMILIES else 'mrda')
        return {name: text for name, text in self.options.items()
                if name in NAMES.values() and text != str(parser.get_default(name))}

    def argv(self) -> list[str]:
        """The equivalent command line, without metrics, some of which an extension may have added."""
        chosen = {'stage': self.options['stage'], 'model': self.options['model'], **self.changed()}
        return [f'--{name}={text}' for name, text in chosen.items() if name not in ('metrics', 'best')]


def config_text(args: Namespace) -> str:
    """The options and the program's version as sorted lines `name: value`, for config.txt."""
    noted = vars(args) | {'version': VERSION}
    return ''.join(f'{name}: {noted[name]}\n' for name in sorted(set(noted) - {'given', 'retired', 'notes'}))


def read_starts(folder: Path) -> list[Start]:
    """The Starts in config.txt of `folder`, oldest first. Raises UserError if it is missing or records none."""
    path = folder / 'config.txt'
    starts = []
    for block in read_text(path).split('\n\n'):
        date, *lines = block.strip('\n').split('\n')
        options = dict(line.split(': ', 1) for line in lines if ': ' in line)
        if options.get('stage') in ('1', '2', '3', '4', '5') and {'model', 'test_only', 'scale'} <= options.keys():
            starts.append(Start(date, options))
    if not starts:
        raise UserError(f'{shown(path)}: records no start of main.py; give a run folder, such as experiment/stage4_...')
    return starts
