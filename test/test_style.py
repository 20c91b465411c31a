"""Style: ruff, annotations, short files, and folders that import each other in one direction."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 300  # lines of a file
FILES = sorted(path for path in ROOT.rglob('*.py')
               if not path.relative_to(ROOT).parts[0].startswith(('.', 'test', 'experiment', 'shared')))
# Rooms that may import main.py: hubconf.py and those that run the command line.
MAIN = {'hubconf.py', 'tools', 'benchmark'}


def name(path):
    """A file as its path in the repository."""
    return path.relative_to(ROOT).as_posix()


def top(path):
    """The folder of a file, or itself in the root."""
    return path.relative_to(ROOT).parts[0]


def tree(path):
    return ast.parse(path.read_text(encoding='utf-8'))


def test_ruff_finds_nothing():
    checked = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '.'], cwd=ROOT, capture_output=True,
                             text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def bare_arguments(body, prefix=''):
    """'function(argument)' of every argument without an annotation of the public functions and methods of `body`."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from bare_arguments(node.body, f'{prefix}{node.name}.')
        elif isinstance(node, ast.FunctionDef) and (
                not node.name.startswith('_') or node.name == '__init__'):
            arguments = node.args
            for each in (*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs,
                         arguments.kwarg):
                if each and each.arg not in ('self', 'cls') and not each.annotation:
                    yield f'{prefix}{node.name}({each.arg})'


def test_arguments_are_annotated():
    found = [f'{name(path)}: {each}' for path in FILES for each in bare_arguments(tree(path).body)]
    assert not found, '\n'.join(found)


def test_files_are_short():
    lengths = {name(path): len(path.read_text(encoding='utf-8').splitlines()) for path in FILES}
    assert not {path: lines for path, lines in lengths.items() if lines > LONGEST}


def imports(path):
    """The folders that a file imports, except its own."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if not node.level else []
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for first in (each.split('.')[0] for each in names):
            for found in first, f'{first}.py':
                if found in TOPS and found != top(path):
                    yield found


TOPS = {top(path) for path in FILES}


def test_folders_form_no_cycle():
    after = {each: set() for each in TOPS}
    for path in FILES:
        after[top(path)].update(imports(path))
    while free := [each for each, needed in after.items() if not needed]:
        after = {each: needed - set(free) for each, needed in after.items() if each not in free}
    assert not after, f'folders that need each other: {after}'


@pytest.mark.parametrize('path', [path for path in FILES if 'main.py' in set(imports(path))], ids=name)
def test_main_is_imported_by_commands_only(path):
    assert top(path) in MAIN
