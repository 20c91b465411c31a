"""Weights are trained within a given time, measured, and shipped with a card that says so."""
import json

import pytest
import ship_weights
import train_zoo
from conftest import SMALL

from model import zoo
from upscale import load


@pytest.fixture
def place(library, tmp_path, monkeypatch):
    """Flags of a small training; its folder is the current one, zoo/ in it empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, 'ZOO', tmp_path / 'zoo')
    short = {stage: (share, 4 if stage == 4 else 1, flags) for stage, (share, _, flags) in train_zoo.PHASES.items()}
    for module in train_zoo, ship_weights:
        monkeypatch.setattr(module, 'PHASES', short)
    left_to_the_stages = {'--epochs_sr', '--test_every', '--epochs_encoder'}
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    return ['--dir_data', str(library), '--dir_cache', 'cache',
            *(part for pair in pairs if pair[0] not in left_to_the_stages for part in pair)]


@pytest.mark.slow
def test_trained_measured_and_shipped(place, tmp_path, capsys):
    assert train_zoo.main(['small', '--minutes', '0.001', '--name', 'tiny', *place]) == 0
    plan = (tmp_path / 'experiment/tiny/plan.json').read_text()
    assert capsys.readouterr().out.count('epochs of 1\n') == 4 and json.loads(plan)['minutes'] == 0.001
    assert train_zoo.main(['small', '--minutes', '9', '--name', 'tiny', *place]) == 0  # all is done: the plan stays
    assert (tmp_path / 'experiment/tiny/plan.json').read_text() == plan
    assert 'nothing is left to do' in capsys.readouterr().out

    (tmp_path / 'about.md').write_text('What no program knows.\n')
    assert ship_weights.main(['tiny', '--about', 'about.md', '--default']) == 0, capsys.readouterr().err
    facts = zoo.index()['tiny']
    assert facts['scale'] == 2 and facts['steps'] == {'1': 1, '2': 1, '3': 1, '4': 4} and '3 images' in facts['images']
    card = (tmp_path / 'zoo/tiny.md').read_text()
    assert card.startswith('# tiny\n\nWhat no program knows.\n') and '| **tiny** | ' in card
    assert '`sh scripts/train_zoo.sh small --minutes 0.001`' in card and str(tmp_path) not in card
    assert load(device='cpu').scale == 2


def test_mistakes_are_one_line(place, capsys):
    assert ship_weights.main(['nothing', '--about', 'about.md']) == 2
    assert train_zoo.main(['small', '--no_such_flag', '1', *place]) == 2
    assert capsys.readouterr().err.count('\n') == 2
