"""Write docs/options.md, every option with its meaning and its defaults, from the table in option.py.

    python tools/maintain/write_options.py
"""
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from model import FAMILIES
from option import OPTIONS, RETIRED
from process.arguments import boolean
from store.files import write_bytes

PATH = Path('docs') / 'options.md'
HEAD = """# Options

Every option of `main.py`. This page is written by `tools/maintain/write_options.py` from the table in `option.py`;
the same is shown by

    python main.py --stage 3 --help

with the defaults of that stage. `-` and `_` are alike in a flag; the last of two equal flags wins; `--flag` alone means
`--flag True` where the value is True or False. A flag that does not exist is refused, with the nearest one that does.

*Default* is the published code's own. Where the published scripts set another one for a stage, so does `--stage`, and
the last column says it: `3: 16` means 16 in stage 3; stages of KDSR (`--model kdsr`) come after *KDSR*.
"""


def text() -> str:
    """The page."""
    parts = [HEAD]
    for row in OPTIONS:
        if isinstance(row, str):
            parts.append(f'\n## {row[0].upper()}{row[1:]}\n\n'
                         '| flag | value | meaning | default | of a stage |\n|---|---|---|---|---|\n')
        else:
            name, default, kind, meaning = row
            cells = f'`--{name}`', values(kind), meaning, shown(default), of_stages(name)
            parts.append(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |\n')
    return ''.join(parts) + (
        '\n## Retired\n\nAccepted with or without a value, for command lines of published scripts, and answered by one '
        f'warning: {", ".join(f"`--{name}`" for name in RETIRED)}.\n')


def values(kind: Callable | tuple | dict) -> str:
    """What an option takes, in words."""
    if isinstance(kind, tuple | dict):
        return ', '.join(f'`{choice}`' for choice in kind)
    words = {'int': 'whole number', 'float': 'number', 'str': 'text', 'path': 'path'}
    return 'True, False' if kind is boolean else words[kind.__name__]


def shown(default: object) -> str:
    """A default as code; nothing where there is none."""
    return '' if default is None else f'`{default}`'


def of_stages(name: str) -> str:
    """The defaults that stages set: '1: 64, 2: 32', equal neighbours joined."""
    parts = []
    for family, each in FAMILIES.items():
        found = {}
        for stage, preset in each.presets.items():
            if name in preset:
                found.setdefault(str(preset[name]), []).append(str(stage))
        words = '; '.join(f'{", ".join(stages)}: {value}' for value, stages in found.items())
        parts += [('KDSR ' if family == 'kdsr' else '') + words] * bool(words)
    return '; '.join(parts)


def main() -> None:
    """The command."""
    write_bytes(PATH, text().encode())
    print(f'{PATH} written')


if __name__ == '__main__':
    main()
