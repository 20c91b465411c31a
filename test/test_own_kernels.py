"""Blur kernels from files: every format gives the same kernels, applied by correlation; invalid ones are one line."""
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.ndimage import correlate

from data.degradation import OwnKernel, classic
from data.degradation.own_kernels import load_kernels, own_kernels
from utility import UserError, generator

WRITERS = {'.mat': lambda path, array: savemat(path, {'Kernel': array}), '.npy': np.save,
           '.npz': lambda path, array: np.savez(path, kernels=array),
           '.pt': lambda path, array: torch.save(torch.from_numpy(array), path)}


def motion(size=9, n=3):
    """Motion kernels in different directions with different weights at both ends, so without symmetry."""
    made = np.zeros((n, size, size))
    for i, kernel in enumerate(made):
        kernel[np.arange(size), np.linspace(i, size - 1, size).round().astype(int)] = np.arange(1, size + 1)
    return made / made.sum((1, 2), keepdims=True)


def put(path, array):
    WRITERS[Path(path).suffix](path, array)
    return str(path)


@pytest.mark.parametrize('suffix', WRITERS)
@pytest.mark.parametrize('n', [1, 3])
def test_every_format_holds_the_same_kernels(tmp_path, suffix, n):
    array = motion(n=n)
    file = put(tmp_path / f'a{suffix}', array[0] if n == 1 else array)
    assert np.allclose(load_kernels(file).numpy(), array, atol=1e-12)


def test_a_folder_holds_the_kernels_of_its_files_by_name(tmp_path):
    small, large = motion(5, 2), motion(9, 1)
    put(tmp_path / 'b.npy', large)
    put(tmp_path / 'a.mat', small)
    (tmp_path / 'notes.txt').write_text('not a kernel')
    found = load_kernels(str(tmp_path)).numpy()
    assert found.shape == (3, 9, 9) and np.allclose(found[2], large[0])
    assert np.allclose(found[:2, 2:7, 2:7], small) and found[:2].sum() == pytest.approx(2)


def test_a_cell_array_of_kernels_of_several_sizes(tmp_path):
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = motion(5)[0], motion(7)[1]
    savemat(tmp_path / 'cells.mat', {'kernels': cells})
    found = load_kernels(str(tmp_path / 'cells.mat')).numpy()
    assert np.allclose(found[0, 1:6, 1:6], motion(5)[0]) and np.allclose(found[1], motion(7)[1])


@pytest.mark.parametrize('suffix', ['.mat', '.npy'])
def test_kernels_are_correlated_as_scipy_does(tmp_path, suffix):
    file = put(tmp_path / f'a{suffix}', motion())
    hr = torch.rand(1, 3, 32, 40, generator=generator('cpu', 'own kernels'))
    for index in range(3):
        lq, _ = classic(OwnKernel(file, index), 4, mode='s-fold')(hr)
        expected = [correlate(channel, motion()[index], mode='mirror')[::4, ::4] for channel in hr[0].double().numpy()]
        assert abs(lq[0].numpy() - np.stack(expected)).max() <= 0.501 / 255


def test_training_draws_every_kernel_and_each_image_may_have_its_own(tmp_path):
    file = put(tmp_path / 'a.npy', motion())
    own, draw = own_kernels(file), generator('cpu', 1)
    drawn, = own.draw(draw, 600)
    assert torch.bincount(drawn.index, minlength=3).min() > 150
    hr = torch.rand(3, 3, 16, 16)
    lq, _ = classic(OwnKernel(file, torch.tensor([2, 0, 1])), 2)(hr)
    for i, index in enumerate((2, 0, 1)):
        assert torch.allclose(lq[i:i + 1], classic(OwnKernel(file, index), 2)(hr[i:i + 1])[0], atol=1 / 255 + 1e-6)
    assert str(own) == 'kernel a' and str(OwnKernel(file, 2)) == 'kernel a 2'


@pytest.mark.parametrize(('array', 'words'), [
    (np.zeros((5, 5)), 'sums to 0, not 1'), (np.ones((5, 5)), 'sums to 25, not 1'), (np.ones((4, 4)) / 16, 'is 4x4'),
    (np.ones((3, 5)) / 15, 'is 3x5'), (np.full((3, 3), np.nan), 'not finite'), (np.ones(5) / 5, 'has shape (5,)'),
    (np.ones((1, 1, 3, 3)) / 9, 'has shape (1, 1, 3, 3)')])
def test_invalid_kernels_are_refused_in_one_line(tmp_path, array, words):
    with pytest.raises(UserError) as error:
        load_kernels(put(tmp_path / 'bad.npy', array))
    assert words in str(error.value) and 'bad.npy' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', [*WRITERS, '.txt'])
def test_damaged_files_are_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f'bad{suffix}'
    path.write_bytes(b'none of these')
    with pytest.raises(UserError) as error:
        load_kernels(str(path))
    assert 'bad' in str(error.value) and '\n' not in str(error.value)


def test_missing_files_and_indices_are_refused(tmp_path):
    file = put(tmp_path / 'a.npy', motion())
    for call, words in ((lambda: own_kernels(None), '--blur_type file needs --kernels'),
                        (lambda: own_kernels(file, '1,3'), '--kernel_index 3'),
                        (lambda: load_kernels(str(tmp_path / 'gone.npy')), 'no such file'),
                        (lambda: load_kernels(str(tmp_path / 'gone.mat')), 'no such file'),
                        (lambda: (tmp_path / 'empty').mkdir() or load_kernels(str(tmp_path / 'empty')), 'no .mat')):
        with pytest.raises(UserError, match=words):
            call()


def test_a_student_of_own_kernels_trains_resumes_and_is_tested_on_each(cli, capsys):
    file = put(Path('lines.mat'), motion(7))
    flags = ['--model', 'kdsr', '--n_resblocks', 1, '--stage', 3, '--blur_type', 'file', '--kernels', file]
    assert cli(*flags, '--save', 'own', '--epochs_sr', 1, '--kernel_index', '0,2') == 0
    results = Path('experiment/own_x2_bicubic_file/results')
    assert {path.name for path in results.glob('Set2*')} == {
        'Set2_kernel_lines_0_noise_0.csv', 'Set2_kernel_lines_2_noise_0.csv'}
    assert cli(*flags, '--save', 'own', '--test_only') == 0
    assert 'kernel lines 1' in capsys.readouterr().out and (results / 'Set2_kernel_lines_1_noise_0.csv').is_file()
    other = put(Path('others.npy'), motion(5))
    assert cli(*flags[:-1], other, '--save', 'own', '--epochs_sr', 2) == 2
    assert '--kernels was lines.mat (fingerprint ' in capsys.readouterr().err
    put(Path('lines.mat'), motion(5))
    load_kernels.cache_clear()
    assert cli(*flags, '--save', 'own', '--epochs_sr', 2) == 2
    assert 'is now lines.mat (fingerprint ' in capsys.readouterr().err
    put(Path('lines.mat'), motion(7))
    assert cli(*flags[:-4], '--kernels', file) == 2 and '--blur_type file uses it' in capsys.readouterr().err
