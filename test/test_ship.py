"""Weights are trained within a given time, tested, and shipped with a model card."""
import json

import pytest
import recipe
import ship_weights
import train_zoo
from conftest import SMALL
from PIL import Image

from model import zoo
from upscale import load


def short(phase):
    """`phase` with few epochs and blocks, the decay beginning after the first epoch."""
    small = {'--decay_type': 'linear_1', '--epochs_encoder': '1' if phase.stage == 4 and not phase.grown else '0',
             '--n_blocks': '2' if phase.grown else '1'}
    flags = [small.get(before, flag) for before, flag in zip(('', *phase.flags), phase.flags, strict=False)]
    return phase._replace(epochs=3 if phase.stage == 4 else 2, flags=tuple(flags))


def scores(card):
    return [line for line in card.splitlines() if line.startswith('| **longer**')]


@pytest.fixture
def place(library, tmp_path, monkeypatch):
    """Flags of a small training; its folder is the current one, zoo/ in it empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, 'ZOO', tmp_path / 'zoo')
    monkeypatch.setattr(train_zoo, 'GROWN', 2)
    for size, each in recipe.RECIPES.items():
        phases = {name: short(phase) for name, phase in each.phases.items()}
        monkeypatch.setitem(recipe.RECIPES, size, each._replace(phases=phases))
    left_to_the_stages = {'--epochs_sr', '--test_every', '--epochs_encoder'}
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    return ['--dir_data', str(library), '--dir_cache', 'cache',
            *(part for pair in pairs if pair[0] not in left_to_the_stages for part in pair)]


@pytest.mark.slow
def test_weights_are_trained_tested_and_shipped(place, tmp_path, capsys, monkeypatch):
    assert train_zoo.main(['small', '--minutes', '0.001', '--name', 'tiny', *place]) == 0
    plan = (tmp_path / 'experiment/tiny/plan.json').read_text()
    assert capsys.readouterr().out.count('epochs of 1\n') == 4 and json.loads(plan)['minutes'] == 0.001
    assert train_zoo.main(['small', '--minutes', '9', '--name', 'tiny', *place]) == 0  # finished: the plan is kept
    assert (tmp_path / 'experiment/tiny/plan.json').read_text() == plan
    assert 'nothing is left to do' in capsys.readouterr().out

    (tmp_path / 'about.md').write_text('About these weights.\n')
    monkeypatch.setattr(ship_weights, 'COST', -1.0)
    assert ship_weights.main(['tiny', '--about', 'about.md', '--default']) == 2
    assert 'less than -1.0 is required' in capsys.readouterr().err and not (tmp_path / 'zoo/tiny.md').exists()
    monkeypatch.setattr(ship_weights, 'COST', 0.2)  # three steps from random weights: may lose more
    assert ship_weights.main(['tiny', '--about', 'about.md', '--default']) == 0, capsys.readouterr().err
    facts = zoo.index()['tiny']
    assert facts['scale'] == 2 and '3 images' in facts['images']
    assert [run['steps'] for run in facts['runs']] == [2, 2, 2, 3]
    assert all(run['pixels'] >= 0 and run['hours'] >= 0 for run in facts['runs'])
    card = (tmp_path / 'zoo/tiny.md').read_text()
    assert card.startswith('# tiny\n\nAbout these weights.\n') and '| **tiny** | ' in card
    assert all(f'\n{stage}. `python main.py --stage {stage} ' in card for stage in (1, 2, 3, 4))
    assert str(tmp_path) not in card and Image.open(tmp_path / 'zoo/tiny.png').size[0] > 400
    assert load(device='cpu').scale == 2

    again = ['longer', '--start', 'tiny', '--runs', 'experiment/tiny_stage4_x2_bicubic_iso', '--commit', 'c' * 40]
    assert ship_weights.main([*again, '--about', 'about.md', '--steps', '8']) == 0
    assert [run['steps'] for run in zoo.index()['longer']['runs']] == [2, 2, 2, 3, 3]
    card = (tmp_path / 'zoo/longer.md').read_text()
    assert '| 5 | 3 | ' in card and '`ccccccc`' in card
    tiny, longer = (tmp_path / 'zoo' / zoo.index()[name]['file'] for name in ('tiny', 'longer'))
    assert longer.stat().st_size < 0.9 * tiny.stat().st_size  # half the steps: one bit of about six less

    def trained_so(*given, read=ship_weights.read_trained):
        run = read(*given)
        return run._replace(options=run.options | {'qat': 8.0}, argv=[*run.argv, '--qat=0.1'])
    monkeypatch.setattr(ship_weights, 'COST', -1.0)
    assert ship_weights.main([*again, '--about', 'about.md', '--steps', '8']) == 2
    monkeypatch.setattr(ship_weights, 'read_trained', trained_so)
    assert ship_weights.main([*again, '--about', 'about.md', '--steps', '8']) == 0
    assert scores(card) == scores((tmp_path / 'zoo/longer.md').read_text())  # rounded once, although --qat rounds, too


@pytest.mark.slow
def test_a_grown_student_and_its_status(place, tmp_path, capsys):
    assert train_zoo.main(['grown', '--minutes', '0.001', '--name', 'tiny', *place]) == 0
    log = (tmp_path / 'experiment/tiny_stage4_grown_x2_bicubic_iso/log.txt').read_text()
    assert all(f'from experiment/tiny/{phase}_2.pt' in log for phase in ('stage3', 'stage4'))
    capsys.readouterr()
    assert train_zoo.main(['status', 'tiny', '--measure', '--data_test', 'Set2']) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith('stage')]
    assert [row[:3] for row in rows] == [['stage1', '2', '2'], ['stage2', '2', '2'], ['stage3', '2', '2'],
                                         ['stage4', '3', '3'], ['stage4_grown', '3', '3']]
    assert all('Set2' in row for row in rows) and 'gaussian8' in said and 'Silhouette' in said
    assert (tmp_path / 'experiment/tiny/degradations.png').is_file()


def test_mistakes_are_one_line(place, capsys):
    assert ship_weights.main(['nothing', '--about', 'about.md']) == 2
    assert train_zoo.main(['small', '--no_such_flag', '1', *place]) == 2
    assert train_zoo.main(['status', 'nothing']) == train_zoo.main(['status']) == 2
    assert capsys.readouterr().err.count('\n') == 4
