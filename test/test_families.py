"""A family of networks in one file: it trains, is tested, is recognised by its weights and upscales photos."""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from skimage import data as photos

from model import FAMILIES, make, mrda, zoo
from model.inference import super_resolve
from model.mln import MLN
from model.weights import Sizes, recognise
from option import parse
from process.extensions import import_files
from store.continuity import binding
from store.tensors import load_weights, save_weights
from upscale import load, upscale
from utility import UserError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / 'docs' / 'extending.md').read_text(encoding='utf-8')
ENVIRONMENT = {'PYTHONPATH': str(ROOT), 'PATH': os.environ['PATH'], 'OMP_NUM_THREADS': '1'}
NETWORK = Sizes(scale=2, n_feats=8, n_blocks=2, rgb_range=1, n_colors=3)


@pytest.fixture
def attentive(tmp_path, monkeypatch):
    """The file of the example family, whose entry in FAMILIES is removed after the test."""
    monkeypatch.setattr('sys.path', [*sys.path])
    monkeypatch.setitem(FAMILIES, 'attentive', None)
    path = tmp_path / 'attentive.py'
    path.write_text(re.search(r'^```python\n(# attentive.py\n.*?)^```$', PAGE, re.M | re.S)[1], encoding='utf-8')
    import_files(str(path))
    return path


def test_example_trains_is_tested_and_upscales_through_the_programs(attentive, library, tmp_path):
    flags = [*SMALL, '--extension', attentive, '--model', 'attentive', '--epochs_encoder', 1, '--dir_data', library,
             '--dir_cache', tmp_path / 'cache']

    def run(program, *words):
        return subprocess.run([sys.executable, ROOT / program, *map(str, words)], cwd=tmp_path, text=True,
                              capture_output=True, env=ENVIRONMENT, check=False)

    trained = run('main.py', *flags, '--stage', 'all')
    assert trained.returncode == 0, trained.stderr
    weights = tmp_path / 'experiment/attentive_stage4_x2_bicubic_iso/model/model_ST_last.pt'
    assert run('main.py', *flags, '--stage', 4, '--test_only').returncode == 0
    assert run('main.py', *flags, '--stage', 1).stderr.startswith(
        'error: --stage 1: --model attentive has stages 3, 4, 5 only')
    command = 'upscale.py', library / 'Photos', '-o', tmp_path / 'out', '--device', 'cpu', '--weights', weights
    assert '--extension' in run(*command).stderr
    upscaled = run(*command, '--extension', attentive)
    assert upscaled.returncode == 0, upscaled.stderr
    assert 'model attentive, n_feats 8, scale 2, n_blocks 1, rgb_range 1' in upscaled.stdout
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 3


def test_network_that_needs_the_whole_image_gives_no_seams(attentive, tmp_path):
    torch.manual_seed(0)
    network = make('attentive', 'student', NETWORK).eval()
    assert network.overlap is None
    save_weights(tmp_path / 'w.pt', network)
    image = photos.astronaut()[:100, :90].copy()
    whole, tiled = (upscale(image, load(tmp_path / 'w.pt', 'cpu', tile=tile)) for tile in (None, 32))
    assert np.array_equal(whole, tiled)
    lq = torch.rand(1, 3, 70, 60)
    with torch.no_grad():
        torch.testing.assert_close(super_resolve(network, lq, 2, tile=32), network(lq)[0])


@pytest.mark.parametrize('model, lacks', [('mrda', {'n_resblocks'}), ('kdsr', {'test_iter'}), ('attentive', set())])
def test_options_of_every_family_are_binding(attentive, model, lacks):
    kept = binding(parse(['--stage', '3', '--model', model]))
    assert {'n_feats', 'n_blocks', 'n_resblocks', 'test_iter'} - kept.keys() == lacks


def test_overlap_of_the_family_is_used(attentive, monkeypatch):
    monkeypatch.setitem(FAMILIES, 'attentive', FAMILIES['attentive']._replace(overlap=5))
    network, sides = make('attentive', 'student', NETWORK).eval(), set()
    network.G.register_forward_pre_hook(lambda module, inputs: sides.add(tuple(inputs[0].shape[2:])))
    with torch.no_grad():
        super_resolve(network, torch.rand(1, 3, 96, 96), 2, tile=32)
    assert sides == {(h, w) for h in (37, 42) for w in (37, 42)}


def test_weights_of_a_derived_family_are_recognised(attentive, monkeypatch):
    """Both families match: the one whose network has exactly these keys is taken."""
    def student(args):
        network = mrda.student(args.scale, args.n_blocks)
        network.G.extra = torch.nn.Conv2d(3, 3, 1)
        return network

    monkeypatch.setitem(FAMILIES, 'derived', FAMILIES['mrda']._replace(student=student))
    monkeypatch.setitem(FAMILIES, 'other', FAMILIES['mrda']._replace(student=lambda args: args.heads))
    for name in 'mrda', 'derived':
        assert recognise(make(name, 'student', NETWORK).state_dict()).family == name


def test_option_missing_from_sizes_is_named(attentive, monkeypatch, tmp_path):
    save_weights(tmp_path / 'w.pt', make('attentive', 'student', NETWORK))
    monkeypatch.setitem(FAMILIES, 'attentive', FAMILIES['attentive']._replace(student=lambda args: args.heads))
    with pytest.raises(UserError, match=r'--heads: .*sizes'):
        zoo.load_student(tmp_path / 'w.pt')


@pytest.mark.parametrize('text, said', [('import nothing_of_this_name', 'line 1: ModuleNotFoundError'),
                                        ('x = 1\ny = (', 'line 2: SyntaxError'),
                                        ('x = 1\n1 / 0', 'line 2: ZeroDivision'),
                                        (None, 'no such Python file')])
def test_extension_that_cannot_be_imported_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / 'extension.py'
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=rf'--extension .*extension\.py.*{said}') as error:
        import_files(str(path))
    assert '\n' not in str(error.value) and str(path) not in sys.modules


@pytest.mark.parametrize('kind', ['params', 'params_ema', 'state_dict', 'model'])
def test_wrapped_weights_load(tmp_path, kind):
    network, other = MLN(4, 2), MLN(4, 2)
    wrapped = {'params': other.state_dict(), 'iter': 5, 'optimizer': [{'lr': 1e-4}], kind: network.state_dict()}
    torch.save(wrapped if kind.startswith('params') else {kind: network.state_dict(), 'epoch': 3}, tmp_path / 'w.pth')
    found = load_weights(tmp_path / 'w.pth')
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in network.state_dict().items())


def test_wrapped_file_that_holds_code_is_refused(tmp_path):
    torch.save({'params': MLN(4, 2).state_dict(), 'made_by': Path('anything')}, tmp_path / 'w.pth')
    with pytest.raises(UserError, match=r'w\.pth: not a readable weights file'):
        load_weights(tmp_path / 'w.pth')


def test_wrapper_around_something_else_is_refused(tmp_path):
    for content in {'params': {'a': 3}}, {'params': [1]}, {'model': {}}, {'state_dict': {'a': {'b': torch.zeros(1)}}}:
        torch.save(content, tmp_path / 'w.pth')
        with pytest.raises(UserError, match=r'w\.pth'):
            zoo.load_student(tmp_path / 'w.pth')
