"""Weights and checkpoints on disk: atomic writes, damage is detected, other files are refused."""
import os
import pickle

import pytest
import torch

from model.mln import MLN
from model.weights import fit_weights
from store.files import append_text, write_bytes
from store.tensors import load_checkpoint, load_weights, save_checkpoint, save_weights
from utility import UserError


def test_weights_round_trip(tmp_path):
    net, other = MLN(4, 2), MLN(4, 2)
    save_weights(tmp_path / 'w.pt', net)
    fit_weights(other, load_weights(tmp_path / 'w.pt'), 'w.pt')
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    plain = torch.load(tmp_path / 'w.pt', weights_only=True)
    assert plain.keys() == net.state_dict().keys()


def test_ctrl_c_during_a_write_keeps_the_old_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt
    write_bytes(tmp_path / 'f', b'old')
    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / 'f', b'new')
    assert os.listdir(tmp_path) == ['f'] and (tmp_path / 'f').read_bytes() == b'old'


def test_error_about_a_log_names_its_file(tmp_path):
    (tmp_path / 'log.txt').mkdir()
    with pytest.raises(UserError, match=r'log\.txt: cannot write 4 characters \(Is a directory\)'):
        append_text(tmp_path / 'log.txt', 'text')


def test_prefixes_of_wrappers_are_stripped(tmp_path):
    net = MLN(4, 2)
    torch.save({f'module._orig_mod.{key}': value for key, value in net.state_dict().items()}, tmp_path / 'w.pt')
    assert load_weights(tmp_path / 'w.pt').keys() == net.state_dict().keys()


class Evil:
    def __reduce__(self):
        return os.system, ('touch executed',)


@pytest.mark.parametrize('content', ['text', 'pickle', 'tensor', 'nothing', 'folder'])
def test_files_without_weights_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'w.pt'
    if content == 'pickle':
        path.write_bytes(pickle.dumps(Evil()))
    elif content == 'tensor':
        torch.save(torch.zeros(3), path)
    elif content == 'folder':
        path.mkdir()
    else:
        path.write_bytes(b'no weights at all' if content == 'text' else b'')
    with pytest.raises(UserError, match=r'w\.pt'):
        load_weights(path)
    assert not (tmp_path / 'executed').exists()


def test_checkpoint_is_read_back_or_refused(tmp_path):
    path = tmp_path / 'state.pt'
    save_checkpoint(path, {'epoch': 3, 'w': torch.arange(5), 'history': {'loss': [0.5]}})
    loaded = load_checkpoint(path)
    assert loaded['history'] == {'loss': [0.5]} and loaded['w'].tolist() == [0, 1, 2, 3, 4]
    data = path.read_bytes()
    for bad in (data[:-1], data[:100], b'', data[:200] + bytes([data[200] ^ 1]) + data[201:]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match='checksum'):
            load_checkpoint(path)


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_bytes(path, b'old')

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='No space left'):
        write_bytes(path, b'new')
    assert path.read_bytes() == b'old' and [p.name for p in tmp_path.iterdir()] == ['file']
