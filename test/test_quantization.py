"""Quantization-aware training: the weights of its passes are those of a shipped file, its own stay fine."""
import re
from pathlib import Path

import convert_weights
import pytest
import torch
from torch import nn

from data.images import read_rgb
from model import mrda, zoo
from optim.quantization import Quantized
from store import safe
from store.tensors import load_checkpoint, load_weights, save_weights


def test_weights_are_those_of_a_shipped_file_and_are_restored_bit_for_bit(tmp_path):
    network = mrda.student(2, n_blocks=2)
    own = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    save_weights(tmp_path / 'w.safetensors', zoo.compact(own, 'w', 2))
    shipped = load_weights(tmp_path / 'w.safetensors')
    with pytest.raises(KeyError), Quantized(network, network.parameters(), 2).applied():
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, shipped[key].float(), atol=1e-3 if own[key].numel() < safe.LARGE else 0,
                                       rtol=1e-3 if own[key].numel() < safe.LARGE else 1e-6)
        raise KeyError
    assert all(torch.equal(tensor, own[key]) for key, tensor in network.state_dict().items())


def test_gradient_of_rounded_weights_changes_the_fine_ones():
    network, x = nn.Linear(64, 64, bias=False), torch.rand(5, 64)
    rounded = Quantized(network, network.parameters(), 1)
    with rounded.applied():
        values = network.weight.detach().clone()
        network(x).square().sum().backward()
    assert len(values.unique()) < 20 < len(network.weight.unique())
    torch.testing.assert_close(network.weight.grad, 2 * x.T.matmul(x @ values.T).T)


def test_training_tests_the_weights_that_are_shipped(cli, library, capsys):
    """The score in its log is that of a file of the same steps, and another one than that of the fine weights."""
    save_weights('start.pt', mrda.student(2, n_blocks=1))
    flags = '--stage', 4, '--distill', 0, '--qat', 1, '--lr_sr', '1e-3', '--pre_train_ST', 'start.pt'
    assert cli(*flags, '--save', 'trained') == 0
    state = load_checkpoint('experiment/trained_x2_bicubic_iso/model/state_2.pt')
    weights = {key.removeprefix('trained.'): tensor for key, tensor in state['networks'].items()
               if key.startswith('trained.')}
    save_weights('shipped.safetensors', zoo.compact(weights, 'w', 1))
    save_weights('fine.pt', weights)
    scores = {}
    for name in 'shipped.safetensors', 'fine.pt':
        save = name.partition('.')[0]
        assert cli('--stage', 4, '--test_only', '--pre_train_ST', name, '--save', save) == 0
        log = Path(f'experiment/{save}_x2_bicubic_iso/log.txt').read_text()
        scores[save] = float(re.findall(r'^Set2 PSNR: (\S+)', log, re.M)[-1])
    tested = state['history']['psnr_y']['Set2'][-1]
    assert abs(tested - scores['shipped']) < 0.01 < abs(tested - scores['fine'])
    assert cli('--stage', 4, '--test_only', '--pre_train_ST', 'fine.pt', '--qat', 1, '--save', 'rounded') == 0
    log = Path('experiment/rounded_x2_bicubic_iso/log.txt').read_text()
    assert float(re.findall(r'^Set2 PSNR: (\S+)', log, re.M)[-1]) == pytest.approx(tested, abs=0.001)
    assert 'holds rounded weights' not in log
    assert cli('--stage', 4, '--test_only', '--pre_train_ST', 'shipped.safetensors', '--qat', 1, '--save', 'again') == 0
    assert 'shipped.safetensors holds rounded weights' in Path('experiment/again_x2_bicubic_iso/log.txt').read_text()
    photos = []
    for name, more in ('shipped.safetensors', ()), ('fine.pt', ('--qat', 1)), ('fine.pt', ()):
        folder = Path('photos', str(len(photos)))
        assert cli('--stage', 4, '--dir_demo', library / 'benchmark/Set2/HR/d.png', '--dir_out', folder,
                   '--pre_train_ST', name, *more) == 0
        photos.append(read_rgb(next(folder.iterdir())).astype(int))
    shipped, rounded, fine = photos
    assert abs(shipped - rounded).max() <= 1 < abs(shipped - fine).max()
    assert convert_weights.main(['fine.pt', 'converted.safetensors', '--steps', '1']) == 0
    assert all(torch.equal(tensor, load_weights('shipped.safetensors')[key])
               for key, tensor in load_weights('converted.safetensors').items())
    assert cli(*flags, '--save', 'trained', '--qat', 2, '--epochs_sr', 3) == 2
    assert '--qat was 1.0, is now 2.0' in capsys.readouterr().err
