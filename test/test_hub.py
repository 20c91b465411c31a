"""torch.hub loads students into a process with other modules of the same names, without affecting them."""
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model import kdsr, mrda
from model.zoo import index
from store.tensors import save_weights
from upscale import load

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = 'kdsr_s_x4_iso_small'  # one of few blocks
OTHERS = 'model', 'data', 'utility', 'loss', 'photo', 'store'
# Another program, whose modules have the names of this project's modules.
PROGRAM = """
import copy, io, json, sys
import data, loss, model, photo, store, utility
import data.degradation
import numpy as np
import torch

NAMES = 'model', 'data', 'utility', 'loss', 'photo', 'store'
def own():
    return {name: id(module) for name, module in sys.modules.items() if name.split('.')[0] in NAMES}

root, weights, name = sys.argv[1:]
before, path = own(), list(sys.path)
networks = {
    'shipped': torch.hub.load(root, name, source='local'),
    'own': torch.hub.load(root, 'student', weights, source='local'),
    'fresh': torch.hub.load(root, name, source='local', pretrained=False),
    'mrda': torch.hub.load(root, 'mrda_student', source='local', scale=3, n_blocks=1),
    'kdsr': torch.hub.load(root, 'kdsr_student', source='local', scale=2, n_feats=8, n_blocks=1, n_resblocks=1)}
lq = torch.from_numpy(np.load('lq.npy'))
results = {key: network(lq).detach().numpy() for key, network in networks.items()}
np.savez('results.npz', **results)
file = io.BytesIO()
torch.save(networks['mrda'], file)
file.seek(0)
again = torch.load(file, weights_only=False)
print(json.dumps({
    'untouched': own() == before and sys.path == path,
    'theirs': [sys.modules[each].WHO for each in NAMES],
    'submodule': data.degradation.WHO,
    'saved': torch.equal(again(lq), networks['mrda'](lq)),
    'copied': torch.equal(copy.deepcopy(networks['mrda'])(lq), networks['mrda'](lq)),
    'one_class': type(networks['shipped'].student) is type(networks['fresh'].student),
    'trained': all(p.grad is None for p in networks['mrda'].parameters()) and bool(
        networks['mrda'](lq).mean().backward() or networks['mrda'].student.G.head[0].weight.grad.abs().sum() > 0)}))
"""


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """The folder of the other program after it has run, with its output."""
    folder = tmp_path_factory.mktemp('elsewhere')
    for name in OTHERS:
        (folder / name).mkdir()
        (folder / name / '__init__.py').write_text(f'WHO = "another {name}"\n')
    (folder / 'data' / 'degradation.py').write_text('WHO = "another degradation"\n')
    (folder / 'program.py').write_text(PROGRAM)
    torch.manual_seed(1)
    np.save(folder / 'lq.npy', torch.rand(2, 3, 9, 12).numpy())
    save_weights(folder / 'weights.pt', kdsr.student(2, 8, 1, 1, rgb_range=255))
    run = subprocess.run([sys.executable, 'program.py', str(ROOT), 'weights.pt', SHIPPED], cwd=folder,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder, json.loads(run.stdout.splitlines()[-1])


def test_modules_with_the_same_names_are_not_affected(other):
    _, said = other
    assert said['untouched'] and said['theirs'] == [f'another {name}' for name in OTHERS]
    assert said['submodule'] == 'another degradation'


@pytest.mark.parametrize('key, weights', [('shipped', SHIPPED), ('own', 'weights.pt')])
def test_pretrained_students_equal_upscale(other, key, weights):
    folder, _ = other
    path = folder / weights if weights.endswith('.pt') else weights
    wanted = load(path, 'cpu', precision='single').tensor(torch.from_numpy(np.load(folder / 'lq.npy'))).numpy()
    found = np.load(folder / 'results.npz')[key]
    assert found.shape == wanted.shape and np.abs(found.clip(0, 1) - wanted).max() < 1e-5


def test_networks_with_random_weights_have_the_requested_sizes(other):
    folder, _ = other
    results = np.load(folder / 'results.npz')
    assert results['mrda'].shape == (2, 3, 27, 36) and results['kdsr'].shape == (2, 3, 18, 24)
    assert results['fresh'].shape == results['shipped'].shape
    assert np.abs(results['fresh'] - results['shipped']).max() > 1e-3


def test_networks_can_be_copied_saved_and_trained(other):
    _, said = other
    assert said['saved'] and said['copied'] and said['one_class'] and said['trained']


def test_torch_hub_lists_the_entries_and_nothing_else():
    spec = importlib.util.spec_from_file_location('hubconf', ROOT / 'hubconf.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith('_')]
    assert sorted(listed) == sorted(['student', 'mrda_student', 'kdsr_student', *index()])


def test_batches_are_super_resolved_image_by_image():
    network = load_entry('mrda_student', scale=2, n_blocks=1)
    lq = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(network(lq), torch.cat([network(lq[:1]), network(lq[1:])]), atol=1e-5)
        assert network(torch.full((1, 3, 5, 4), 0.25)).unique().tolist() == [0.25]  # flat images stay flat
    assert network.student.state_dict().keys() == mrda.student(2, 1).state_dict().keys()


def load_entry(name, **options):
    return torch.hub.load(str(ROOT), name, source='local', **options)
