"""Maps of an encoder's features: projection and silhouette are correct, and the command draws the requested grid."""
import builtins
import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL

from data.degradation import IsoGaussian, classic
from data.images import read_rgb
from model import kdsr, mrda
from model.mln import MLN
from store.tensors import save_weights

maps = importlib.import_module('map_degradations')


@pytest.fixture
def clusters():
    """Features (60, 7) of four clusters, the last of which has one member only, and their labels."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2, 3], [20, 25, 14, 1])
    return rng.normal(size=(60, 7)) + 3 * rng.normal(size=(4, 7))[labels], labels


@pytest.fixture
def without_sklearn(monkeypatch):
    plain = builtins.__import__

    def refuse(name, *rest, **more):
        if name.startswith('sklearn'):
            raise ImportError('No module named sklearn')
        return plain(name, *rest, **more)
    monkeypatch.setattr(builtins, '__import__', refuse)


@pytest.fixture
def drawn(cli, library, capsys):
    """drawn(*flags) → (status, output, error, rows of the CSV)."""
    save_weights('student.pt', mrda.student(2, n_blocks=1))

    def run(*flags):
        status = maps.main([*SMALL, '--dir_data', str(library), *map(str, flags)])
        table = Path('degradations.csv')
        rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
        return status, *capsys.readouterr(), rows
    return run


STUDENT = ['--stage', 4, '--pre_train_ST', 'student.pt']


def slow_silhouette(features, labels):
    """Rousseeuw's definition, implemented directly."""
    scores = []
    for i, own in enumerate(labels):
        distance = np.sqrt(((features - features[i]) ** 2).sum(1))
        mates = (labels == own) & (np.arange(len(labels)) != i)
        if not mates.any():
            scores.append(0)
            continue
        a = distance[mates].mean()
        b = min(distance[labels == other].mean() for other in set(labels) - {own})
        scores.append((b - a) / max(a, b))
    return np.mean(scores)


def test_silhouette_equals_the_definition(clusters):
    assert maps.silhouette(*clusters) == pytest.approx(slow_silhouette(*clusters), abs=1e-12)


def test_silhouette_equals_scikit_learn(clusters):
    metrics = pytest.importorskip('sklearn.metrics', reason='scikit-learn is not installed')
    assert maps.silhouette(*clusters) == pytest.approx(metrics.silhouette_score(*clusters), abs=1e-12)


def test_silhouette_is_high_for_separated_and_low_for_mixed_clusters():
    apart = np.array([[0.0], [0.1], [9.0], [9.1]])
    assert maps.silhouette(apart, [0, 0, 1, 1]) > 0.95 > 0 > maps.silhouette(apart, [0, 1, 0, 1])
    assert maps.silhouette(np.zeros((4, 2)), [0, 0, 1, 1]) == 0
    assert np.isnan(maps.silhouette(apart, [0, 0, 0, 0]))


def test_principal_components_follow_the_variance():
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    hidden = rng.normal(size=(400, 6)) * [9, 4, 1, 0.5, 0.1, 0.1]
    points, shares = maps.principal(hidden @ turn + 7)
    for i in (0, 1):
        assert abs(np.corrcoef(points[:, i], hidden[:, i])[0, 1]) > 0.99
    assert shares == pytest.approx(np.sort(np.linalg.eigvalsh(np.cov(hidden.T)))[::-1][:2] / np.cov(hidden.T).trace())
    mirrored, _ = maps.principal(np.flip(hidden @ turn + 7, 0))
    assert np.allclose(mirrored, points[::-1])  # signs do not depend on the order of the rows
    assert maps.principal(np.ones((3, 1)))[0].shape == (3, 2)  # fewer dimensions than two, no variance


def test_rank_correlation_with_the_blur():
    ways = [classic(IsoGaussian(sigma), 4) for sigma in (0.5, 1, 2, 4)]
    assert maps.order(np.array([9, 3, 1, -20.0]), ways) == pytest.approx(1)
    assert maps.order(np.array([0, 2, 1, 3.0]), ways) == pytest.approx(0.8)
    assert maps.order(np.ones(4), ways) == maps.order(np.arange(4.0), 4 * ways[:1]) == 0


def test_map_of_a_student(drawn, without_sklearn):
    status, out, _, rows = drawn(*STUDENT, '--sigmas', '0.4,2', '--kernels', '3/1/45', '--noises', '0,10')
    assert status == 0 and 'Silhouette by degradation' in out and 'requirements-extra.txt' in out
    assert 'size of the blur: 0.' in out
    assert len(rows) == 2 * 3 * 2 and {row['image'] for row in rows} == {'Set2/d', 'Set2/e'}
    assert [row['degradation'] for row in rows[:3]] == ['sigma 0.4, noise 0', 'sigma 2, noise 0',
                                                        'lambda 3/1, theta 45, noise 0']
    assert {row['noise'] for row in rows} == {'0', '10'} and 'tsne_1' not in rows[0]
    assert read_rgb('degradations.png').shape[0] > 500
    again = drawn(*STUDENT, '--sigmas', '0.4,2', '--kernels', '3/1/45', '--noises', '0,10')[3]
    assert again == rows



def test_t_sne_needs_scikit_learn(drawn):
    pytest.importorskip('sklearn.manifold', reason='scikit-learn is not installed')
    status, _, _, rows = drawn(*STUDENT, '--sigmas', '0.4,1,2')
    assert status == 0 and len({row['tsne_1'] for row in rows}) == 6


@pytest.mark.parametrize('family', ['mrda', 'kdsr'])
def test_map_of_a_teacher(drawn, family):
    if family == 'mrda':
        save_weights('teacher.pt', mrda.teacher(2, 8, 1))
        save_weights('meta.pt', MLN(8, 2))
        flags = ['--pre_train_meta', 'meta.pt']
    else:
        save_weights('teacher.pt', kdsr.teacher(2, 8, 1, 1))
        flags = ['--n_resblocks', 1]
    status, out, error, rows = drawn('--stage', 3, '--model', family, '--pre_train_TA', 'teacher.pt', *flags,
                                     '--sigmas', '0.4,2')
    assert status == 0, error
    assert f'{family.upper()} teacher' in out and len(rows) == 4


def test_default_grid_is_the_range_of_training(drawn):
    _, _, _, rows = drawn(*STUDENT, '--sig_min', 0.5, '--sig_max', 2.5, '--noise', 20)
    assert sorted({float(row['lambda_1']) for row in rows}) == pytest.approx(list(np.linspace(0.5, 2.5, 9)))
    assert {row['noise'] for row in rows} == {'0', '10', '20'}
    _, _, _, rows = drawn(*STUDENT, '--blur_type', 'aniso_gaussian', '--lambda_max', 3)
    assert {row['theta_degrees'] for row in rows} == {'0', '45', '90', '135'}


@pytest.mark.parametrize(('flags', 'words'), [
    (['--stage', 1], 'no degradation encoder'),
    ([*STUDENT, '--sigmas', 2], 'two or more'),
    ([*STUDENT, '--sigmas', '2,2'], 'two or more different degradations'),
    ([*STUDENT, '--out', 'map.txt'], '.png, .pdf or .svg'),
    ([*STUDENT, '--noises', '0,1,2,3,4,5,6,7,8'], 'at most 8'),
    (['--stage', 4, '--pre_train_ST', 'gone.pt'], 'no such file')])
def test_mistakes_are_one_line(drawn, flags, words):
    status, _, error, _ = drawn(*flags)
    assert status == 2 and error.startswith('error: ') and error.count('\n') == 1 and words in error


def test_malformed_grids_are_refused(drawn):
    for flag, text in (('--kernels', '3/1'), ('--sigmas', '1,x'), ('--noises', '0.5')):
        status, _, error, _ = drawn(*STUDENT, flag, text)
        assert status == 2 and error.startswith('error: ') and error.count('\n') == 1
