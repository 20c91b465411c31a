"""Protocols, written test sets and the metrics command score the same pixels in the same way."""
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from conftest import SMALL

from data.dataset import TestSet
from data.degradation import IsoGaussian, classic
from data.images import write_rgb
from data.pairs import Files, partner, slug
from data.protocol import GAUSSIAN8
from model import mrda
from report.evaluation import Score, SetScores, write_csv
from report.metric import METRICS
from report.table import TestRun, write_tables
from store.tensors import save_weights
from utility import UserError

TOOLS = Path(__file__).parent.parent / 'tools'
TEST = ['--stage', 4, '--test_only', '--pre_train_ST', 'student.pt']


@pytest.fixture
def tested(cli, capsys):
    """tested(*flags) tests one random student, and returns (PSNR, SSIM) of Set2 from the log's line."""
    save_weights('student.pt', mrda.student(2, n_blocks=1))

    def run(*flags):
        assert cli(*TEST, *flags) == 0
        means = re.search(r'^Set2 PSNR: ([\d.]+) SSIM: ([\d.]+)$', capsys.readouterr().out, re.M)
        return tuple(map(float, means.groups()))
    return run


def script(name, *argv):
    """Exit status of scripts/<name>.py, run in this process."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(word) for word in argv])


def test_gaussian8_is_the_mean_of_eight_single_tests(tested):
    first, last = GAUSSIAN8[2]
    singles = [tested('--sig', first + (last - first) * i / 7) for i in range(8)]
    assert tested('--protocol', 'gaussian8') == pytest.approx([fmean(column) for column in zip(*singles, strict=True)],
                                                              abs=1e-3)
    table = json.loads(Path('experiment/stage4_x2_bicubic_iso/results/protocol_gaussian8.json').read_text())
    assert 'gaussian8' in json.dumps(table)


def test_noise_depends_on_the_image_alone(tested, library, tmp_path, monkeypatch):
    """In a set with one image less, the noise, and so the score, of the other image is the same."""
    tested('--noise', 20)
    alone = tmp_path / 'alone' / 'benchmark' / 'Set2' / 'HR'
    alone.mkdir(parents=True)
    (alone / 'e.png').symlink_to(library / 'benchmark' / 'Set2' / 'HR' / 'e.png')
    rows = Path('experiment/stage4_x2_bicubic_iso/results/Set2_sigma_1.2_noise_20.csv')
    both = rows.read_text().splitlines()
    tested('--noise', 20, '--dir_data', tmp_path / 'alone')
    assert rows.read_text().splitlines() == [both[0], both[2]]


def test_written_test_set_gives_the_same_scores(tested, library):
    flags = ['--blur_type', 'iso_gaussian', '--noise', 10]
    expected = tested(*flags)
    assert script('make_testset', *SMALL, '--dir_data', library, '--stage', 4, '--dir_out', 'lr', *flags) == 0
    assert tested('--test_lr', 'lr', *flags) == expected
    assert tested('--test_lr', 'lr/Set2_sigma_1.2_noise_10', *flags) == expected


@pytest.mark.parametrize('names', ['{}', '{}x2', '{}_x2', '{}_x2_SR'])
@pytest.mark.parametrize('place', ['given', 'given/Set2'])
def test_given_lr_images_are_matched_by_name_and_recorded_in_every_result(tested, library, capsys, names, place):
    """The table, the CSV and the log name the source of LR, independent of the degradation of the options."""
    assert script('make_testset', *SMALL, '--dir_data', library, '--stage', 4, '--dir_out', 'lr') == 0
    for path in Path('lr/Set2_sigma_1.2_noise_0').iterdir():
        target = Path(place) / f'{names.format(path.stem)}.png'
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    results = Path('experiment/stage4_x2_bicubic_iso/results')
    tested('--sig', 2.0)
    others = sorted(path.name for path in results.iterdir())
    before = (results / 'Set2_sigma_2_noise_0.csv').read_bytes()
    scores = tested('--test_lr', 'given', '--sig', 2.0)
    assert sorted({path.name for path in results.iterdir()} - set(others)) == ['Set2_LR_from_given.csv']
    assert (results / 'Set2_sigma_2_noise_0.csv').read_bytes() == before
    table = (results / 'protocol_single.md').read_text()
    assert 'LR from given' in table and 'sigma' not in table.split('Protocol')[0]
    assert scores == tested('--sig', 1.2)


def test_exact_name_is_preferred_among_matching_files(tested, library):
    assert script('make_testset', *SMALL, '--dir_data', library, '--stage', 4, '--dir_out', 'lr') == 0
    expected = tested('--test_lr', 'lr/Set2_sigma_1.2_noise_0')
    for path in sorted(Path('lr/Set2_sigma_1.2_noise_0').iterdir()):
        write_rgb(path.with_name(f'{path.stem}_x2.png'), np.zeros((30, 30, 3), np.uint8))
    assert tested('--test_lr', 'lr/Set2_sigma_1.2_noise_0') == expected


def test_wrong_test_sets_are_refused(cli, tested, capsys, library):
    Path('empty').mkdir()
    hr = library / 'benchmark' / 'Set2' / 'HR'
    for flags, said in ((['--test_lr', 'nowhere'], 'no such folder'), (['--test_lr', 'empty'], 'no such file'),
                        (['--test_lr', hr], 'but the ground truth')):
        assert cli(*TEST, *flags) == 2
        assert said in capsys.readouterr().err


def test_all_files_of_a_written_set_are_checked_before_the_test(tmp_path):
    series = [classic(IsoGaussian(sigma), 2) for sigma in (1.2, 2.4)]
    for name in 'abc':
        write_rgb(tmp_path / 'hr' / f'{name}.png', np.zeros((41, 30, 3), np.uint8))
        for degradation in series:
            write_rgb(tmp_path / 'lr' / slug('S', degradation) / f'{name}.png', np.zeros((20, 15, 3), np.uint8))
    tests = [TestSet('S', sorted((tmp_path / 'hr').iterdir()), 2)]
    files = Files(tmp_path / 'lr', 2, 1)
    assert files.series(tests, series) == series
    files.check(tests, series)
    (tmp_path / 'lr' / slug('S', series[0]) / 'a.png').unlink()
    (tmp_path / 'lr' / slug('S', series[1]) / 'b.png').write_bytes(b'no image')
    write_rgb(tmp_path / 'lr' / slug('S', series[1]) / 'c.png', np.zeros((15, 20, 3), np.uint8))
    with pytest.raises(UserError) as error:
        files.check(tests, series)
    text = str(error.value)
    assert '3 of 6 files' in text and '\n' not in text
    for part in (r'1\.2_noise_0/a\.png \(no such file\)', r'2\.4_noise_0/b\.png \(damaged',
                 r'2\.4_noise_0/c\.png is 20x15 pixels, but the ground truth needs 15x20'):
        assert re.search(part, text)


def test_non_utf8_names_are_escaped(tmp_path):
    name = os.fsdecode(b'caf\xe9')
    scores = SetScores(name, classic(IsoGaussian(1.2), 2), [[Score(name, {'psnr_y': 30., 'ssim_y': .9})]])
    write_csv(tmp_path, scores)
    run = TestRun('single', 2, f'lq read from {name}', {name: [(scores.degradation, scores.mean())]}, comparable=False)
    for path in [*write_tables(tmp_path, run), *tmp_path.glob('*.csv')]:
        assert r'caf\udce9' in path.read_text(encoding='utf-8')


def test_protocol_undefined_at_a_scale_is_refused(cli, tested, capsys):
    assert cli(*TEST, '--protocol', 'mrda9') == 2
    assert '--scale 2' in capsys.readouterr().err and not Path('experiment').exists()


def test_metrics_command_refuses_unmatched_or_unsuitable_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ('sr/a_x2.png', 'hr/a.png', 'more/a_x2.png', 'more/a.png', 'twice/a.png', 'twice/a.bmp',
                 'deep/x/a.png'):
        write_rgb(Path(name), np.zeros((20, 20, 3), np.uint8))
    assert script('metrics', 'sr', 'hr') == 0
    for *argv, said in (('more', 'hr', 'more/a.png and more/a_x2.png both match the image a'),
                        ('sr', 'twice', 'twice/a.bmp and twice/a.png both match the image a'),
                        ('sr', 'deep', 'no matching file in the other folder for a_x2, x/a'),
                        ('sr', 'hr', '--border', -1, 'is not a whole number from 0'),
                        ('sr', 'hr', '--max_pixels', 399, '20x20 is more than 399 pixels; raise --max_pixels'),
                        ('sr', 'hr', '--border', 5, 'too small for --border 5')):
        capsys.readouterr()
        assert script('metrics', *argv) == 2
        error = capsys.readouterr().err
        assert said in error and error.count('\n') == 1


def test_metrics_command_matches_by_relative_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for level, folder in enumerate(('.', 'sub', 'sub/deep')):
        write_rgb(Path('hr', folder, 'a.png'), np.full((20, 20, 3), 100, np.uint8))
        write_rgb(Path('sr', folder, 'a_x4_SR.png'), np.full((20, 20, 3), 101 + level, np.uint8))
    assert script('metrics', 'sr', 'hr') == 0
    scores = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [name for name, *_ in scores] == ['a', 'sub/a', 'sub/deep/a']
    assert [round(float(psnr), 1) for _, psnr, _ in scores] == [49.5, 43.4, 39.9]
    assert script('metrics', 'sr/sub/a_x4_SR.png', 'hr/a.png') == 0  # two files with any names
    assert float(capsys.readouterr().out.splitlines()[1].split()[1]) == pytest.approx(43.4, abs=0.05)
    assert script('metrics', 'sr/*.png', 'hr/*.png', '--metrics', 'psnr_rgb') == 0


def test_metrics_command_supports_extensions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rgb(Path('a.png'), np.zeros((20, 20, 3), np.uint8))
    Path('own.py').write_text('from report.metric import METRICS, Metric\n'
                              'METRICS["own"] = Metric(lambda sr, hr, border, rgb_range: float(border), "px", 1)\n')
    try:
        assert script('metrics', 'a.png', 'a.png', '--metrics', 'own', '--extension', 'own.py', '--border', 3) == 0
        assert capsys.readouterr().out.splitlines()[-2].split() == ['mean', '3.000']
    finally:
        del METRICS['own']


@pytest.mark.parametrize(('name', 'own'), [
    ('a', 'a'), ('ax4', 'a'), ('a_x4', 'a'), ('a_SR', 'a'), ('a_x4_SR', 'a'), ('s/ax2', 's/a'), ('boxx3', 'boxx3'),
    ('box4', 'box4'), ('box4x4', 'box4'), ('a_x10', None), ('x4', None), ('b', None)])
def test_names_of_lr_and_sr_images_match_the_ground_truth(name, own):
    assert partner(name, {'a', 's/a', 'box4', 'boxx3'}) == own


def test_metrics_command_agrees_with_test_only(tested, library, capsys):
    psnr, ssim = tested('--save_results')
    restored = 'experiment/stage4_x2_bicubic_iso/results/Set2_sigma_1.2_noise_0'
    truth = library / 'benchmark' / 'Set2' / 'HR'
    assert script('metrics', restored, truth, '--border', 2) == 0
    mean = capsys.readouterr().out.splitlines()[-2].split()
    assert mean[0] == 'mean' and [float(value) for value in mean[1:]] == [psnr, ssim]
    next(Path(restored).iterdir()).unlink()
    assert script('metrics', restored, truth) == 2
    assert 'no matching file' in capsys.readouterr().err


@pytest.mark.parametrize('unbuffered, status', [('', 0), ('1', 1)])  # reported at the end, or at once
def test_closed_pipe_ends_a_program_silently(library, unbuffered, status):
    read, write = os.pipe()
    os.close(read)
    truth = library / 'benchmark' / 'Set2' / 'HR'
    run = subprocess.run([sys.executable, TOOLS / 'metrics.py', truth, truth], stdout=write, stderr=subprocess.PIPE,
                         env=os.environ | {'PYTHONUNBUFFERED': unbuffered}, check=False)
    os.close(write)
    assert run.returncode == status and not run.stderr
