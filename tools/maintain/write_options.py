"""Write docs/options.md, every option with its meaning and its defaults, from the table in option.py.

    python tools/maintain/write_options.py
"""
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from model import FAMILIES
from option import OPTIONS, RETIRED, STAGES_OF
from process.arguments import boolean
from store.files import write_bytes

PATH = Path('docs') / 'options.md'
HEAD = """# Options

Every flag of `main.py`, with its range and its defaults. Those that one stage uses, with the defaults of that stage:

    python main.py --stage 3 --help

- `--flag` alone means `--flag True` where the value is True or False.
- The last of two equal flags wins; `-` and `_` are alike in a flag.
- An unknown flag is an error that names the nearest known one.

*Default* is that of the published code. *By stage* lists what the published scripts set instead, which `--stage` does
too: `3: 16` means 16 in stage 3. Stages of KDSR (`--model kdsr`) come after *KDSR*.

(Generated from `option.py` by `tools/maintain/write_options.py`.)
"""


def text() -> str:
    """The page."""
    parts = [HEAD]
    for row in OPTIONS:
        if isinstance(row, str):
            parts.append(f'\n## {row[0].upper()}{row[1:]}\n\n'
                         '| flag | value | meaning | default | by stage |\n|---|---|---|---|---|\n')
        else:
            name, default, kind, meaning = row
            cells = f'`--{name}`', values(kind), meaning + used(name), shown(default), of_stages(name)
            parts.append(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |\n')
    return ''.join(parts) + (
        '\n## Retired\n\nFlags of published scripts that have no effect here; one warning names those that are given: '
        f'{", ".join(f"`--{name}`" for name in RETIRED)}.\n')


def values(kind: Callable | tuple | dict) -> str:
    """What an option takes, in words, with its range."""
    if isinstance(kind, tuple | dict):
        return ', '.join(f'`{choice}`' for choice in kind)
    words = {'str': 'text', 'path': 'path'}
    return 'True, False' if kind is boolean else getattr(kind, 'wanted', '') or words[kind.__name__]


def used(name: str) -> str:
    """' (stage 2)' for an option that only stage 2 uses; nothing for one of every stage."""
    stages = STAGES_OF.get(name, ())
    return f' (stage{"s" * (len(stages) > 1)} {", ".join(map(str, stages))})' if stages else ''


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
