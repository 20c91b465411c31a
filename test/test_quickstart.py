"""The quickstart writes its table and its figures; here with hardly any training."""
import importlib.util
from pathlib import Path

import pytest

from data.images import read_rgb


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).parent.parent / 'tools' / 'quickstart.py'
    spec = importlib.util.spec_from_file_location('quickstart', script)
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    tiny = ['--epochs_sr', '1', '--test_every', '1', '--n_feats', '4', '--n_blocks', '1', '--patch_size', '8',
            '--batch_size', '2', '--task_iter', '1', '--test_iter', '1', '--epochs_encoder', '0']
    assert quickstart.main(tiny) == 0
    table = Path('experiment/quickstart/table.txt').read_text()
    names = [line.split()[0] for line in table.splitlines()[1:8]]
    assert names == ['bicubic', 'MLN', 'MLN,', 'teacher', 'student', 'shipped', 'shipped']
    assert table in capsys.readouterr().out
    assert read_rgb('experiment/quickstart/comparison.png').shape[1] > 1800  # LR input, bicubic, student, ground truth
    assert read_rgb('experiment/quickstart/chelsea_x4.png').shape == (1200, 1804, 3)
    assert read_rgb('experiment/quickstart/photo.png').shape[1] > 900
