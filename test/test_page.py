"""The report of a run: one valid, self-contained page with the content of the run folder, for any names."""
import base64
import importlib
import json
import math
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import opened, programs

from data.degradation import AnisoGaussian, IsoGaussian, Pipeline, bicubic, classic
from data.images import write_rgb
from data.protocol import degradations
from model import FAMILIES, mrda
from option import parse
from report import page, record
from report.evaluation import Score, SetScores, write_csv
from report.metric import METRICS
from report.table import TestRun, write_tables
from run.starts import config_text, read_starts
from store.checkpoint import Run
from store.tensors import save_checkpoint, save_weights

make_report = importlib.import_module('make_report')
VOID = {'meta', 'img', 'input', 'source'}
NASTY = '<script>alert(1)</script>&"\''


class Page(HTMLParser):
    """Every element of a page as (tag, attributes), its text, and whether its tags close in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.open = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def put_run(folder, data, names=('d', 'e'), stage=4, **changes):
    """A run folder as after training and a test with --save_results; the images have random pixels."""
    flags = ['--stage', str(stage), '--scale', '2', '--dir_data', str(data), '--data_test', 'Set2', '--n_blocks', '2']
    run = Run(folder, stage)
    run.open(config_text(parse(flags)))
    run.open(config_text(parse([*flags, '--test_only', '--sig', '1.2', '--noise', '5'])))
    rng = np.random.default_rng(0)
    degradation = classic(IsoGaussian(1.2), 2, 5.0)
    scores = SetScores('Set2', degradation, [[Score(name, {'psnr_y': 27.5, 'ssim_y': 0.8}) for name in names]])
    write_csv(run.results, scores)
    for name in names:
        image = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        write_rgb(run.results / 'Set2_sigma_1.2_noise_5' / f'{name}_x2.png', image)
        write_rgb(data / 'benchmark' / 'Set2' / 'HR' / f'{name}.png', np.pad(image, ((0, 1), (0, 1), (0, 0))))
    nan = math.nan
    history = {'losses': {'loss': [0.9, 0.3, 0.02], 'KL': [0.4, 0.01, 0.001], 'SR': [nan, 0.05, 0.02]},
               'psnr_y': {'Set2': [20.5, 24.25, 27.5]}}
    save_checkpoint(folder / 'model' / 'state_3.pt', {'history': history | changes})
    return folder


@pytest.fixture
def run(tmp_path):
    return put_run(tmp_path / 'experiment' / 'mine', tmp_path / 'data')


def made(folder, *flags):
    """The report of a run as (text, Page)."""
    assert make_report.main([str(folder), *map(str, flags)]) == 0
    text = (folder / 'report.html').read_text(encoding='utf-8')
    return text, Page(text)


def views(found):
    """The images of the sliders."""
    return [attributes for attributes in found.all('img') if attributes.get('class') in ('before', 'after', 'truth')]


def test_page_is_valid_and_self_contained(run):
    text, found = made(run)
    assert text.startswith('<!DOCTYPE html>') and found.all('html') == [{'lang': 'en'}] and found.all('title')
    ids = [attributes['id'] for _, attributes in found.elements if 'id' in attributes]
    assert len(ids) == len(set(ids))
    assert len(views(found)) == 6  # two images, each three times
    assert all(attributes['width'] == '64' for attributes in views(found))
    assert all(attributes['alt'] and attributes['src'].startswith('data:image/') for attributes in found.all('img'))
    assert all(attributes['srcset'].startswith('data:image/svg+xml;base64,') for attributes in found.all('source'))
    for name in ('src', 'href', 'srcset', 'action', 'style', 'onclick', 'onload', 'background'):
        values = [attributes[name] for tag, attributes in found.elements if name in attributes
                  and tag not in ('img', 'source')]
        assert not values, (name, values)
    assert not re.search(r'https?:|@import|url\(', re.sub(r'data:image/[^"]*', '', text))
    assert all('aria-label' in attributes for attributes in found.all('input'))


def test_page_shows_the_content_of_the_run(run):
    _, found = made(run)
    text = ' '.join(found.text)
    assert 'Report of mine' in text and 'Stage 4, MRDA: the student' in text and '2 starts' in text
    assert 'Set2/d, sigma 1.2, noise 5' in text and 'super-resolved PSNR 27.50, SSIM 0.8000' in text
    assert re.search(r'bicubic PSNR \d+\.\d\d', text)
    labels = [attributes['alt'] for attributes in found.all('img') if 'class' not in attributes]
    assert labels == ['Training loss over 3 epochs; at the end: loss 0.02, KL 0.001, SR 0.02',
                      'PSNR after each epoch over 3 epochs; at the end: Set2 27.5']
    assert 'n_blocks' in text and 'Different from the stage' in text


def test_the_best_epoch_is_shown(run):
    assert 'Best epoch' not in made(run)[0]
    Run(run, 4).save_best({}, {'epoch': 2, 'set': NASTY, 'metric': 'psnr_y', 'value': 24.25})
    assert f'Best epoch: 2, {NASTY} PSNR 24.25' in ' '.join(made(run)[1].text)


def test_published_results_are_shown_beside_ours(run):
    blurs = degradations('gaussian8', bicubic(4))
    scores = {'Set5': [(blur, {'psnr_y': 30 + i, 'ssim_y': 0.9}) for i, blur in enumerate(blurs)],
              'Mine': [(blur, {'psnr_y': math.inf, 'ssim_y': 1.0}) for blur in blurs]}
    write_tables(run / 'results', TestRun('gaussian8', 4, 'how they were made', scores))
    _, found = made(run)
    text = ' '.join(found.text)
    assert 'Published: MRDA (TIP' in text
    assert 'published: MRDA_S' in text and '31.98' in text and 'how they were made' in text and 'inf' in text
    spans = [int(attributes['colspan']) for attributes in found.all('th') + found.all('td') if 'colspan' in attributes]
    assert 2 in spans
    write_tables(run / 'results', TestRun('gaussian8', 4, 'line', {'Mine': scores['Mine'], 'Own': scores['Mine']}))
    assert 'Published: MRDA' not in ' '.join(made(run)[1].text)
    blurs = degradations('mrda9', bicubic(4))
    scores = {'Set14': [(blur, {'psnr_y': 25.0, 'ssim_y': 0.7}) for blur in blurs]}
    write_tables(run / 'results', TestRun('mrda9', 4, 'line', scores))
    assert 'Set14 published PSNR' in ' '.join(made(run)[1].text)


def test_names_are_escaped(tmp_path):
    name = NASTY.replace('/', '')
    folder = put_run(tmp_path / 'experiment' / name, tmp_path / 'data', names=(name, 'b$title'),
                     psnr_y={NASTY: [20.0, 21.0]})
    text, found = made(folder)
    assert len(found.all('script')) == 1 and 'alert(1)' in ' '.join(found.text)
    assert len(views(found)) == 6 and any(name in attributes['alt'] for attributes in found.all('img'))
    assert f'Report of {name}' in ' '.join(found.text) and 'b$title' in ' '.join(found.text)
    assert '<script>alert' not in text


def test_policy_allows_only_the_page_style_and_script(run):
    _, found = made(run)
    policy = next(each['content'] for each in found.all('meta') if 'http-equiv' in each)
    assert "default-src 'none'" in policy and 'unsafe' not in policy and 'img-src data:' in policy
    assert len(re.findall("'sha256-[^']{44}'", policy)) == 2


def test_page_without_checkpoints_images_or_ground_truth(run, capsys, tmp_path):
    shutil.rmtree(tmp_path / 'data')
    _, found = made(run)
    assert 'left out' in capsys.readouterr().out and '--dir_data' in ' '.join(found.text)
    assert not views(found) and found.all('table')
    shutil.rmtree(run / 'results')
    shutil.rmtree(run / 'model')
    _, found = made(run)
    assert 'Curves' not in found.text and 'Options' in found.text
    write_rgb(run / 'loss.png', np.full((20, 30, 3), 7, np.uint8))
    assert [each['alt'] for each in made(run)[1].all('img')] == ['loss over the epochs']


def test_moved_ground_truth_is_found(run, tmp_path):
    (tmp_path / 'data').rename(tmp_path / 'moved')
    assert len(views(made(run, '--dir_data', tmp_path / 'moved')[1])) == 6


def test_missing_set_hides_no_other(run, tmp_path):
    config = run / 'config.txt'
    config.write_text(config.read_text().replace('data_test: Set2', 'data_test: Gone+Set2'))
    assert len(views(made(run)[1])) == 6


def test_runs_of_an_extension_are_reported_with_and_without_its_file(run, capsys):
    config, file = run / 'config.txt', run / 'own.py'
    file.write_text('from report.metric import METRICS, Metric\n'
                    'METRICS["own"] = Metric(min, "px", 1)\n'
                    'from model import FAMILIES\nFAMILIES["own"] = FAMILIES["mrda"]\n')
    text = re.sub(r'extension: \S+', f'extension: {file}', config.read_text())
    config.write_text(text.replace('model: mrda', 'model: own'))
    scored = next((run / 'results').glob('*.csv'))
    scored.write_text(scored.read_text().replace('ssim_y', 'own'))
    try:
        assert 'OWN 0.8.' in made(run)[0]
    finally:
        del METRICS['own'], FAMILIES['own'], sys.modules[str(file)]
    file.unlink()
    assert 'OWN' in made(run)[0] and 'own.py: no such Python file' in capsys.readouterr().out


def test_size_of_the_file_is_limited(run, capsys, monkeypatch):
    assert 'Images' not in made(run, '--images', 0)[1].text
    small, found = made(run, '--images', 1)
    assert len(views(found)) == 3
    monkeypatch.setattr(make_report, 'MOST', len(re.search('<figure class="compare">.*?</figure>', small, re.S)[0]) + 9)
    text, found = made(run)
    assert len(views(found)) == 3 and len(text) == len(small)
    assert 'images: only 1,' in capsys.readouterr().out


def test_large_images_are_cropped_where_they_differ_most(tmp_path, monkeypatch):
    folder = put_run(tmp_path / 'run', tmp_path / 'data', names=('d',))
    monkeypatch.setattr(make_report, 'CROP', (30, 40))
    _, found = made(folder)
    assert {(each['width'], each['height']) for each in views(found)} == {('40', '30')}
    assert 'Shown: 40x30 of 64x48 pixels' in ' '.join(found.text)


def test_scores_are_sorted_numerically(tmp_path):
    sigmas = [2.0, 1.8, 10.0, 2.2]
    for sigma in sigmas:
        degradation = classic(IsoGaussian(sigma), 2)
        write_csv(tmp_path / 'results', SetScores('Set2', degradation, [[Score('d', {'psnr_y': 20})]]))
    found = [each.degradation for each in record.read_scores(tmp_path)]
    assert found == [f'sigma {sigma:g}, noise 0' for sigma in sorted(sigmas)]


def test_images_are_spread_over_all_tests():
    sets = [record.Scored(f'S{i}', '', {}, {}, {f'{i}{name}': None for name in 'abc'}) for i in range(4)]
    assert [name for _, name in make_report.spread(sets[:2], 5)] == ['0a', '1a', '0b', '1b', '0c']
    assert [name[0] for _, name in make_report.spread(sets, 2)] == ['0', '3']
    assert len(make_report.spread(sets[:1], 9)) == 3 and make_report.spread([], 3) == []


@pytest.mark.parametrize('degradation', [
    classic(IsoGaussian(2.6), 2), classic(AnisoGaussian(3.5, 1.5, 0.35, 15), 3, 10.0, 's-fold'),
    classic(IsoGaussian(0.8 + 0.8 / 7), 4, 12.5)], ids=str)
def test_degradations_are_read_back(tmp_path, degradation):
    write_csv(tmp_path / 'results', SetScores('Set2', degradation, [[Score('d', {'psnr_y': 20})]]))
    found, = record.read_scores(tmp_path)
    assert found.degradation == str(degradation) and Pipeline.from_dict(found.pipeline) == degradation


def test_options_are_read_back(tmp_path):
    flags = ['--stage', '3', '--model', 'kdsr', '--data_test', 'A+B', '--lr_sr', '3e-5', '--chop', '--theta', '-20']
    Run(tmp_path / 'run', 3).open(config_text(parse(flags)))
    start, = read_starts(tmp_path / 'run')
    assert start.trains and set(start.changed()) == {'stage', 'data_test', 'lr_sr', 'chop', 'theta', 'save', 'model'}
    again = parse(start.argv())
    assert {name: value for name, value in vars(again).items() if name != 'given'} \
        == {name: value for name, value in vars(parse(flags)).items() if name != 'given'}


@pytest.mark.parametrize('values', [[5.0], [math.nan, 3.0], [1.0] * 500, [0.0, 0.0], [1e-9, 1e3], [math.inf, 2.0]])
@pytest.mark.parametrize('losses', [True, False])
def test_any_series_is_a_chart(values, losses):
    text = page.chart('title', 'label', {'a<b': values, 'empty': [math.nan]}, losses)
    found = Page(text)
    drawn = [base64.b64decode(each.get('src', each.get('srcset')).partition(',')[2]).decode()
             for each in found.all('img') + found.all('source')]
    assert len(drawn) == 2 and all(ElementTree.fromstring(each).tag.endswith('svg') for each in drawn)
    assert all('a&lt;b' in each and 'empty' not in each for each in (*drawn, text)) and drawn[0] != drawn[1]
    assert page.chart('title', 'label', {'a': [math.nan]}) == ''


def test_charts_are_the_same_bytes_every_time():
    assert page.chart('title', 'label', {'a': [1.0, 2.0]}) == page.chart('title', 'label', {'a': [1.0, 2.0]})


@pytest.mark.parametrize(('spoil', 'words'), [
    (lambda run: (run / 'config.txt').unlink(), 'config.txt'),
    (lambda run: (run / 'config.txt').write_text('nothing\n'), 'records no start'),
    (lambda run: (run / 'config.txt').write_bytes(b'\xff\xfe'), 'cannot be read'),
    (lambda run: (run / 'results' / 'protocol_single.json').write_text('{'), 'damaged'),
    (lambda run: (run / 'results' / 'protocol_single.json').write_text('[]'), 'another format'),
    (lambda run: (run / 'results' / 'Set2_sigma_1.2_noise_5.csv').write_text('a,b\n1,2\n'), 'not a table'),
    (lambda run: (run / 'model' / 'state_3.pt').write_bytes(b'x' * 99), 'damaged')])
def test_mistakes_are_one_line(run, spoil, words, capsys):
    spoil(run)
    assert make_report.main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and words in error
    assert not (run / 'report.html').exists()


def test_a_real_test_is_reported(cli, library):
    save_weights('student.pt', mrda.student(2, n_blocks=1))
    assert cli('--stage', 4, '--test_only', '--pre_train_ST', 'student.pt', '--save_results', '--noise', 3) == 0
    _, found = made(Path('experiment/stage4_x2_bicubic_iso'))
    shown = ' '.join(found.text)
    table = json.loads(Path('experiment/stage4_x2_bicubic_iso/results/protocol_single.json').read_text())
    assert f'{table["means"][0]["scores"]["Set2"]["psnr_y"]:.2f}' in shown
    assert len(views(found)) == 6 and 'Set2/e' in shown


@pytest.mark.slow
@pytest.mark.skipif(None in programs(), reason='chromium and chromedriver are not installed')
def test_in_a_browser(run, tmp_path):
    """In a real browser: sliders follow mouse, touch and keys; no requests, no errors on the console."""
    made(run)
    clip = "return getComputedStyle(document.querySelector('.before')).clipPath"
    right = re.compile(r'inset\(0px calc\(100% - ([\d.]+)%\) 0px 0px\)|inset\(0px ([\d.]+)% 0px 0px\)')

    def share(browser):
        """Visible part of the bicubic image, in percent."""
        plain, computed = right.fullmatch(browser.run(clip)).groups()
        return float(plain) if plain else 100 - float(computed)

    with opened(*programs(), tmp_path / 'profile') as browser:
        for width, dark in ((1200, False), (1200, True), (390, False), (390, True)):
            browser.open(run / 'report.html', width, 900, dark)
            view, slider = browser.find('.view'), browser.find('input[type=range]')
            wide = browser.run("return document.querySelector('.view').clientWidth")
            assert share(browser) == 50
            browser.drag(view, 0, wide / 4, 'touch' if width < 700 else 'mouse')
            assert share(browser) == pytest.approx(75, abs=2)
            before = share(browser)
            browser.keys(slider, '\ue012' * 5)  # left arrow
            assert share(browser) == before - 5
            browser.keys(slider, '\ue011')  # home
            assert share(browser) == 0
            browser.run("document.querySelector('input[type=checkbox]').click()")
            seen = "return getComputedStyle(document.querySelector('.truth')).visibility"
            assert browser.run(seen) == 'visible'
            assert browser.run('return document.documentElement.scrollWidth <= innerWidth')
            light = browser.run("return getComputedStyle(document.body).backgroundColor") == 'rgb(255, 255, 255)'
            assert light != dark
            assert browser.run('return [...document.images].every(image => image.naturalWidth)')
        assert {address.partition(':')[0] for address in browser.requests()} == {'file', 'data'}
        assert not browser.log('browser')
        assert len(browser.picture()) > 1000
