"""Weights as .safetensors files: read and written by every command, damaged and other files refused."""
import lzma

import convert_weights
import numpy as np
import pytest
import torch
from safetensors import safe_open

from model import mrda
from model.mln import MLN
from model.zoo import load_student
from store import safe
from store.tensors import load_weights, save_weights
from upscale import load, upscale
from utility import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def equal(weights, others):
    return weights.keys() == others.keys() and all(torch.equal(tensor, others[key]) for key, tensor in weights.items())


def about(path):
    with safe_open(path, 'pt') as file:
        return file.metadata()


def test_conversion_in_both_directions_and_wrapped():
    student = mrda.student(2, 1).state_dict()
    save_weights('a.pt', student)
    assert convert_weights.main(['a.pt', 'b.safetensors', '--about', 'licence=CC0-1.0']) == 0
    assert equal(load_weights('b.safetensors'), student)
    said = about('b.safetensors')
    assert said.items() >= {'family': 'mrda', 'role': 'student', 'scale': '2', 'n_blocks': '1', 'rgb_range': '1',
                            'licence': 'CC0-1.0'}.items()
    assert convert_weights.main(['b.safetensors', 'c.pth', '--wrap', 'params_ema', '--half']) == 0
    assert torch.load('c.pth', weights_only=True).keys() == {'params_ema'}
    assert equal(load_weights('c.pth'), {key: tensor.half() for key, tensor in student.items()})
    assert convert_weights.main(['b.safetensors', 'd.safetensors']) == 0 and about('d.safetensors') == said


def test_photos_can_be_upscaled_with_safetensors():
    student = mrda.student(2, 1)
    save_weights('w.safetensors', student)
    save_weights('w.pt', student)
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    assert np.array_equal(*(upscale(image, load(name, 'cpu')) for name in ('w.safetensors', 'w.pt')))


def test_compressed_files_hold_the_same_in_fewer_bytes(tmp_path):
    student = mrda.student(2, 1).state_dict()
    save_weights('w.safetensors', safe.quantized(student), {'licence': 'CC0-1.0'})
    assert convert_weights.main(['w.safetensors', 'w.safetensors.xz']) == 0
    (plain, _), (weights, facts) = map(safe.unpacked, ('w.safetensors', 'w.safetensors.xz'))
    assert equal(weights, plain) and facts['licence'] == 'CC0-1.0' and facts['family'] == 'mrda'
    save_weights('q.safetensors.xz', safe.quantized(student))
    assert (tmp_path / 'q.safetensors.xz').stat().st_size < 0.9 * (tmp_path / 'w.safetensors').stat().st_size
    assert load_student('q.safetensors.xz')[1]['scale'] == 2


def test_what_decompresses_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    save_weights('w.safetensors.xz', MLN(4, 2))
    monkeypatch.setattr(safe, 'LIMIT', 2**24)  # enough memory to decompress it
    (tmp_path / 'bomb.safetensors.xz').write_bytes(lzma.compress(bytes(2**24 + 1), preset=0))
    assert load_weights('w.safetensors.xz')
    with pytest.raises(UserError, match=r'bomb\.safetensors\.xz: damaged.*too large'):
        load_weights('bomb.safetensors.xz')


@pytest.mark.parametrize('name', ['w.safetensors', 'w.safetensors.xz'])
@pytest.mark.parametrize('damage', ['bit', 'cut', 'header', 'longer', 'pickle', 'empty', 'gone'])
def test_damaged_and_other_files_are_refused_in_one_line(tmp_path, damage, name):
    path = tmp_path / name
    save_weights(path, MLN(4, 2))
    data = bytearray(path.read_bytes())
    if damage == 'bit':
        data[-5] ^= 1
    elif damage == 'cut':
        del data[-9:]
    elif damage == 'header':
        data[:8] = (2 ** 62).to_bytes(8, 'little')
    elif damage == 'longer':
        data += b'\0' * 8
    elif damage == 'pickle':
        torch.save(MLN(4, 2).state_dict(), tmp_path / 'w.pt')
        data = (tmp_path / 'w.pt').read_bytes()
    elif damage == 'empty':
        data = b''
    path.unlink() if damage == 'gone' else path.write_bytes(data)
    with pytest.raises(UserError, match=r'w\.safetensors(\.xz)?: (damaged|cannot be read)') as error:
        load_weights(path)
    assert '\n' not in str(error.value)


def test_quantized_weights_are_read_as_floats_and_stay_the_same(tmp_path):
    """8 bits each; quantized again, the same integers."""
    student = mrda.student(2, 1).state_dict()
    small = safe.quantized(student | {'zero': torch.zeros(5000)}, lambda key: 20)
    save_weights('q.safetensors', small)
    read = load_weights('q.safetensors')
    assert read.keys() == {*student, 'zero'} and not read.pop('zero').any()
    assert all((tensor - student[key]).norm() < 0.03 * student[key].norm() for key, tensor in read.items())
    assert (tmp_path / 'q.safetensors').stat().st_size < 1.1 * sum(tensor.numel() for tensor in student.values())
    again = safe.quantized(read, lambda key: 20)
    assert all(torch.equal(tensor, small[key]) for key, tensor in again.items() if tensor.dtype == torch.int8)
    assert convert_weights.main(['q.safetensors', 'plain.pt']) == 0
    assert equal(load_weights('plain.pt'), read | {'zero': torch.zeros(5000)})


def test_quantized_convolutions_keep_the_brightness_of_plain_areas():
    """The response of each kernel to a constant is as exact as a single weight."""
    weight = torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(1))
    small = safe.quantized({'conv.weight': weight})
    step = small['conv.weight.int8_scale']
    errors = small['conv.weight'] * step - weight
    assert errors.abs().max() < step and errors.sum((2, 3)).abs().max() <= 0.501 * step
    assert (step - weight.std() / safe.STEPS).abs() < 1e-6


def test_integers_without_a_scalar_as_scale_stay_as_they_are():
    weights = {'a': torch.ones(2000, dtype=torch.int8), 'b': torch.ones(4, dtype=torch.int8),
               'b.int8_scale': torch.ones(3), 'c': torch.ones(4), 'c.int8_scale': torch.ones(()),
               'd.int8_scale': torch.ones(())}
    save_weights('i.safetensors', weights)
    assert equal(load_weights('i.safetensors'), weights)


def test_metadata_of_other_programs_is_not_trusted():
    """Without our checksum and with a wrong scale in the metadata: the tensors decide."""
    from safetensors.torch import save_file
    save_file(mrda.student(2, 1).state_dict(), 'other.safetensors', {'scale': '4', 'family': 'kdsr'})
    _, facts, _ = load_student('other.safetensors')
    assert (facts['model'], facts['scale']) == ('mrda', 2)


@pytest.mark.parametrize('words, said', [
    (['none.pt', 'b.pt'], 'neither a file nor shipped'), (['a.pt', 'a.pt'], 'exists already'),
    (['a.pt', 'b.bin'], 'must end in'), (['a.pt', 'b.safetensors', '--wrap', 'params'], '--wrap is for'),
    (['a.pt', 'b.pt', '--about', 'x=y'], '--about for'),
    (['a.pt', 'b.pt', '--steps', '2'], '--steps is for'), (['a.pt', 'b.safetensors', '--about', 'x'], 'NAME=TEXT')])
def test_mistakes_are_one_line_and_write_nothing(tmp_path, words, said, capsys):
    save_weights('a.pt', MLN(4, 2))
    assert convert_weights.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and len(list(tmp_path.iterdir())) == 1
