"""The benchmark runs every case with both implementations, and writes what it prints."""
import json

import pytest

from benchmark.__main__ import main
from benchmark.cases import CASES, Size, write_photos
from utility import UserError

TINY = ['--batch', '2', '--patch', '8', '--n_feats', '4', '--n_blocks', '1', '--lq', '8x9', '--rounds', '1',
        '--threads', '1', '--device', 'cpu']


@pytest.fixture(scope='module')
def size(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    write_photos(folder)
    return Size(batch=2, patch=8, n_feats=4, n_blocks=1, lq=(8, 9), device='cpu', folder=str(folder))


@pytest.mark.parametrize('name', CASES)
def test_both_implementations_of_every_case(name, size):
    for make in CASES[name][1:]:
        call = make(size)
        call()
        call()


def test_in_two_processes(tmp_path, capsys):
    file = tmp_path / 'result.json'
    assert main([*TINY, 'stage3', '--model', 'kdsr', '--scale', '3', '--precision', 'bf16', '--json', str(file)]) == 0
    row, = json.loads(file.read_text())['cases']
    assert row['case'] == 'stage3' and row['ratio'] > 0 and row['memory_mib'] > row['libraries_mib'] > 0
    assert row['gmacs'] > 0
    assert '| stage3 |' in capsys.readouterr().out


@pytest.mark.parametrize('flags', [['stage9'], ['--lq', '7'], ['stage1', '--model', 'kdsr'], ['--rounds', '0']])
def test_mistakes(flags, capsys):
    with pytest.raises(SystemExit):
        main([*TINY, *flags])
    assert 'error: ' in capsys.readouterr().err


@pytest.mark.parametrize('flag, value', [('--n_feats', '0'), ('--batch', '3'), ('--device', 'abacus')])
def test_unsupported_sizes_are_refused(flag, value):
    with pytest.raises(UserError, match=flag):
        main([*TINY, 'stage2', flag, value])
