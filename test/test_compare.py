"""Figures that compare methods: the crop is where they differ most, files are matched, errors reported."""
import importlib
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from data.images import read_rgb, write_rgb
from report import plots
from report.plots import draw_curves, draw_rate, telling_crop

compare = importlib.import_module('compare')


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Ground truth and two methods, of which b has a bright spot at rows 40-48, columns 60-68 of image y."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for name in ('x', 'y'):
        truth = rng.integers(60, 120, (70, 98, 3), dtype=np.uint8)
        write_rgb(Path(f'truth/{name}.png'), truth)
        restored = truth[:68, :96].copy()
        write_rgb(Path(f'a/{name}_x4.png'), restored)
        if name == 'y':
            restored[40:48, 60:68] = 255
        write_rgb(Path(f'b/{name}.png'), restored)
    return ['--methods', 'first=a', 'second=b', '--truth', 'truth']


def test_the_crop_is_where_images_differ_most():
    images = [np.full((50, 60, 3), 100, np.uint8) for _ in range(3)]
    images[1][30:36, 41:47] += 50
    images[2][5, 5] = 255  # brighter, but one pixel only
    top, left = telling_crop(images, 6, 6)
    assert (top, left) == (30, 41)
    assert telling_crop(images, 500, 500) == (0, 0)  # larger than the image
    assert telling_crop(images, 50, 6) == (0, 41)


def test_panels_show_the_crop_where_images_differ_most(folders, capsys, monkeypatch):
    drawn = []
    plain = plots.draw_zooms
    monkeypatch.setattr(compare, 'draw_zooms', lambda *args: drawn.append(args) or plain(*args))
    assert compare.main([*folders, '--side', '16']) == 0
    assert capsys.readouterr().out.split() == [f'panels/{name}.{kind}' for name in 'xy' for kind in ('png', 'pdf')]
    _, name, truth, images, captions, (top, left, side) = drawn[1]
    assert name == 'y' and list(images) == ['first', 'second'] and truth.shape == (68, 96, 3)
    assert top <= 40 and top + side >= 48 and left <= 60 and left + side >= 68
    assert captions['first'].startswith('inf dB / 1.0000') and 10 < float(captions['second'].split()[0]) < 40
    assert read_rgb('panels/y.png').shape[1] > 600 and Path('panels/y.pdf').read_bytes().startswith(b'%PDF')


def test_crop_and_images_can_be_chosen(folders, capsys):
    assert compare.main([*folders, '--crop', '1,2,30', '--images', 'y', '--out', 'here']) == 0
    assert capsys.readouterr().out.split() == ['here/y.png', 'here/y.pdf']


def test_single_method_is_compared_with_the_ground_truth(folders, monkeypatch):
    drawn = []
    monkeypatch.setattr(compare, 'draw_zooms', lambda *args: drawn.append(args))
    assert compare.main(['--methods', 'second=b', '--truth', 'truth', '--images', 'y', '--side', '8']) == 0
    assert drawn[0][-1] == (40, 60, 8)


@pytest.mark.parametrize(('flags', 'words'), [
    (['--images', 'z'], 'choose from x, y'),
    (['--side', '69'], 'is too large'),
    (['--crop', '60,0,20'], 'is too large'),
    (['--methods', 'a=a', 'a=b'], 'same name'),
    (['--methods', 'a=gone'], 'no such file')])
def test_mistakes_are_one_line(folders, flags, words, capsys):
    assert compare.main([*folders, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and words in error


def test_malformed_arguments_are_refused(folders, capsys):
    for flags in (['--methods', 'folder'], ['--crop', '1,2'], ['--side', '0'], ['--border', '-4']):
        assert compare.main([*folders, *flags]) == 2
        assert capsys.readouterr().err.count('\n') == 1


NAMES = [r'$\a^$', '$x$', '_val', '测试集', os.fsdecode(b'caf\xe9'), 'line\nline', 'x' * 255, '<b>&']


@pytest.mark.filterwarnings('error')
def test_names_are_shown_literally_in_figures(tmp_path):
    said = []
    history = {'losses': {}, 'psnr_y': {name: [20.0 + i, 21.0] for i, name in enumerate(NAMES)}}
    draw_curves(tmp_path, history, said.append)
    assert said == [] and read_rgb(tmp_path / 'psnr.png').std() > 1
    image = np.zeros((40, 40, 3), np.uint8)
    plots.draw_panel(tmp_path / 'panel.png', dict.fromkeys(NAMES, image), (0, 0, 8))
    plots.draw_zooms([tmp_path / 'zooms.pdf'], NAMES[0], image, dict.fromkeys(NAMES, image),
                     dict.fromkeys([*NAMES, 'ground truth'], '$^$'), (0, 0, 8))
    with plots.style():
        text = plots.svg(plots.curves('', {name: [1.0] for name in NAMES})).decode()
    shown = [''.join(each.itertext()) for each in ElementTree.fromstring(text).iter('{http://www.w3.org/2000/svg}text')]
    assert {r'$\a^$', '$x$', '_val', '测试集', r"'caf\udce9'", r"'line\nline'", '<b>&', 'x' * 39 + '…'} <= set(shown)


def test_failing_figure_is_reported_and_stops_nothing(tmp_path):
    said = []
    history = {'losses': {'loss': ['none']}, 'psnr_y': {'Set5': [20.0]}}
    draw_curves(tmp_path, history, said.append)
    assert len(said) == 1 and 'loss: could not be drawn' in said[0] and (tmp_path / 'psnr.png').exists()
    draw_rate(tmp_path / 'gone' / '\0', {0.0: 1e-4}, said.append)
    assert 'could not be drawn (embedded null byte)' in said[1]


def test_losses_of_different_magnitude_share_a_figure(tmp_path):
    nan = float('nan')
    history = {'losses': {'loss': [0.9, 0.2, 0.03], 'KL': [0.5, 0.01, 0.001], 'SR': [nan, nan, 0.02]},
               'psnr_y': {'Set5': [20.0, nan, 30.0]}}
    draw_curves(tmp_path, history)
    assert all(read_rgb(tmp_path / f'{name}.png').std() > 1 for name in ('loss', 'psnr'))
