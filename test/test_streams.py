"""Standard streams that are closed, full or gone do not end a program, and lost output is reported."""
import importlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import SMALL

ROOT = Path(__file__).parent.parent
PROGRAMS = ['main', 'upscale', *sorted(path.stem for path in (ROOT / 'tools').glob('*.py'))]
FULL = pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no /dev/full')


@pytest.fixture(params=PROGRAMS)
def program(request, tmp_path, monkeypatch):
    """The main function of a program, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return importlib.import_module(request.param).main


@FULL
def test_help_to_a_full_disk_is_an_error(program, capsys, monkeypatch):
    with suppress(OSError), open('/dev/full', 'w') as full:
        monkeypatch.setattr('sys.stdout', full)
        assert program(['--help']) == 2
        assert sys.stdout is full
    error, = capsys.readouterr().err.splitlines()
    assert error == 'error: standard output: No space left on device; the output is incomplete'


@pytest.mark.parametrize('stream', ['closed', 'full', 'gone'])
def test_error_that_cannot_be_printed_is_status_2(program, stream, capsys, monkeypatch):
    if stream == 'full' and not Path('/dev/full').exists():
        pytest.skip('this system has no /dev/full')
    read, write = os.pipe()
    os.close(read)
    with suppress(OSError), open('/dev/full' if stream == 'full' else write, 'w') as file:
        monkeypatch.setattr('sys.stderr', None if stream == 'closed' else file)
        assert program(['--no-such-flag']) == 2


def test_a_closed_stdout_is_no_error(program, monkeypatch):
    monkeypatch.setattr('sys.stdout', None)
    with pytest.raises(SystemExit) as end:
        program(['--help'])
    assert end.value.code == 0


def run(cwd, line, *flags):
    """(status, stderr) of main.py with the streams that the shell text `line` redirects."""
    command = ['sh', '-c', f'exec "$@" {line}', 'sh', sys.executable, ROOT / 'main.py', *SMALL, *map(str, flags)]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env=os.environ | {'XDG_CACHE_HOME': str(cwd / 'cache')})
    return done.returncode, done.stderr


def test_training_needs_no_standard_stream(library, tmp_path):
    flags = ['--dir_data', library, '--stage', 1, '--epochs_sr', 1]
    assert run(tmp_path, '<&- >&- 2>&-', *flags) == (0, '')
    folder = tmp_path / 'experiment' / 'stage1_x2_bicubic_iso'
    assert (folder / 'model' / 'state_1.pt').exists() and 'PSNR' in (folder / 'log.txt').read_text()
    assert run(tmp_path, '2>&-', *flags, '--epochs_sr', 2)[0] == 0
    assert (folder / 'model' / 'state_2.pt').exists()


@FULL
def test_table_to_a_full_disk_is_an_error_but_training_continues(library, tmp_path):
    flags = ['--dir_data', library, '--stage', 1, '--epochs_sr', 1]
    status, error = run(tmp_path, '> /dev/full', *flags)
    assert (status, error.count('\n')) == (2, 1) and 'standard output: No space left' in error
    assert (tmp_path / 'experiment/stage1_x2_bicubic_iso/model/state_1.pt').exists()
    assert run(tmp_path, '> /dev/full', *flags, '--test_only') == (status, error)
    assert run(tmp_path, '2> /dev/full', *flags, '--epochs_sr', 2) == (0, '')
