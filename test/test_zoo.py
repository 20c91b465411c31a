"""Shipped weights by name: with 8 bits each, verified by checksum, refused in one line."""
import hashlib
import json
import re
from itertools import product
from pathlib import Path

import draw_photos
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

from model import kdsr, mrda, zoo
from model.mln import MLN
from model.weights import recognise
from photo.choice import FILE
from stages import STAGES
from store.tensors import load_weights, save_weights, serialize
from upscale import load, upscale
from utility import ROUNDED, UserError


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A temporary zoo/ with two networks of one block; returns the networks."""
    monkeypatch.setattr(zoo, 'ZOO', tmp_path / 'zoo')
    nets = {'two': mrda.student(2, 1), 'four': kdsr.student(4, 8, 1, 2, rgb_range=255)}
    zoo.ship('two', nets['two'].state_dict(), {'trained': 'not at all'})
    save_weights(tmp_path / 'k.pt', nets['four'])
    zoo.ship('four', tmp_path / 'k.pt', {'scale': 4}, default=True)
    return nets


def equal(net, weights, exactly=True):
    return all(torch.equal(value, weights[key] if exactly else weights[key].half().float())
               for key, value in net.state_dict().items())


def near(net, weights):
    """Small tensors as in half precision, large ones within a step of their quantization."""
    def step(key, weight):
        return max(weight.abs().max() / 127, weight.std() / zoo.steps_of(key, 16))
    return all(torch.equal(value, weights[key].half().float()) if value.numel() < 4096 else
               (value - weights[key]).abs().max() < step(key, weights[key])
               for key, value in net.state_dict().items())


def test_shipped_weights_load_in_single_precision(shelf):
    for name, net in shelf.items():
        found, _, notes = zoo.load_student(name)
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in found.parameters())
        assert near(found, net.state_dict()) and name in notes[0]
    entry = zoo.index()['two']
    assert entry['trained'] == 'not at all' and entry['model'] == 'mrda' and entry['rgb_range'] == 1
    assert zoo.index()['four'].items() >= {
        'model': 'kdsr', 'scale': 4, 'n_blocks': 1, 'n_feats': 8, 'n_resblocks': 2, 'rgb_range': 255}.items()


def test_the_default_and_the_scale(shelf, tmp_path):
    assert zoo.load_student()[1]['scale'] == 4
    assert zoo.load_student(scale=2)[1]['scale'] == 2
    zoo.ship('other', shelf['two'].state_dict(), {}, default=True)
    assert [name for name, facts in zoo.index().items() if facts['default']] == ['other']
    assert 'other' in zoo.load_student()[2][0]
    with pytest.raises(UserError, match=r'--scale 3.*two \(x2\), four \(x4\)'):
        zoo.load_student(scale=3)
    with pytest.raises(UserError, match=r'--scale 3: the weights two .shipped. are for x2'):
        zoo.load_student('two', 3)


def test_a_file_of_another_format_is_replaced(shelf):
    facts = zoo.index()
    older = {**facts['two'], 'file': 'two.safetensors'}
    (zoo.ZOO / zoo.INDEX).write_text(json.dumps(facts | {'two': older}))
    (zoo.ZOO / 'two.safetensors.xz').rename(zoo.ZOO / 'two.safetensors')
    zoo.ship('two', shelf['two'].state_dict(), {})
    assert {path.name for path in zoo.ZOO.iterdir()} >= {'two.safetensors.xz', 'four.safetensors.xz'}
    assert not (zoo.ZOO / 'two.safetensors').exists() and near(zoo.load_student('two')[0], shelf['two'].state_dict())


def test_unknown_name_is_refused_with_the_shipped_names(shelf):
    with pytest.raises(UserError, match=r'^--weights tow: .*two \(x2\), four \(x4\)') as error:
        zoo.load_student('tow')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('damage', ['flipped', 'cut', 'gone', 'replaced'])
def test_a_damaged_file_is_refused_in_one_line(shelf, damage):
    path = zoo.ZOO / 'two.safetensors.xz'
    data = path.read_bytes()
    if damage == 'gone':
        path.unlink()
    elif damage == 'replaced':
        save_weights(path, mrda.student(2, 1))
    else:
        path.write_bytes(data[:-9] if damage == 'cut' else data[:999] + bytes([data[999] ^ 1]) + data[1000:])
    said = r'two\.safetensors\.xz: (damaged or replaced|cannot be read).*from the project again'
    with pytest.raises(UserError, match=said) as error:
        zoo.load_student('two')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['{', '[]', '{"a": {"file": "a.pt"}}', '{"a": 1}', None])
def test_a_damaged_list_is_refused_in_one_line(shelf, text):
    path = zoo.ZOO / zoo.INDEX
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=r'index\.json.*from the project again') as error:
        zoo.load_student()
    assert '\n' not in str(error.value)


STUDENTS = {'mrda': lambda scale, white: mrda.student(scale, 2, white),
            'kdsr': lambda scale, white: kdsr.student(scale, 6, 2, 3, white)}


@pytest.mark.parametrize('family', STUDENTS)
@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('white', [1, 255])
@pytest.mark.parametrize('half', [False, True])
def test_family_and_sizes_are_read_from_a_file(shelf, tmp_path, family, scale, white, half):
    net = STUDENTS[family](scale, white)
    weights = {f'module.{key}': value.half() if half else value for key, value in net.state_dict().items()}
    (tmp_path / 'own.pt').write_bytes(serialize(weights))
    random = torch.random.get_rng_state()
    found, facts, notes = zoo.load_student(tmp_path / 'own.pt')
    assert torch.equal(random, torch.random.get_rng_state())
    assert equal(found, net.state_dict(), exactly=not half)
    assert (facts['model'], facts['scale'], facts['n_blocks'], facts['rgb_range']) == (family, scale, 2, white)
    assert f'model {family}, scale {scale}, n_blocks 2' in notes[0] and 'own.pt' in notes[0]


@pytest.mark.parametrize('content, said', [
    (mrda.teacher(2, 4, 1).state_dict(), 'MRDA teacher'), (MLN(4, 2).state_dict(), 'MRDA MLN'),
    ({'a': torch.zeros(3)}, 'not a student of a known family'), (b'text', 'not a readable weights file')])
def test_files_without_a_student_are_refused(shelf, tmp_path, content, said):
    (tmp_path / 'own.pt').write_bytes(content if isinstance(content, bytes) else serialize(content))
    with pytest.raises(UserError, match=rf'own\.pt: .*{said}') as error:
        zoo.load_student(tmp_path / 'own.pt')
    assert '\n' not in str(error.value)


def test_unsuitable_weights_are_not_shipped(shelf):
    before = (zoo.ZOO / zoo.INDEX).read_bytes()
    weights = shelf['two'].state_dict()
    large = {key: value * 1e8 if key == 'E_st.mlp.0.bias' else value for key, value in weights.items()}
    incomplete = {key: value for key, value in weights.items() if key != 'G.head.0.bias'}
    for given, facts, said in ((weights, {'scale': 4}, 'scale is 2, not 4'), (large, {}, 'half precision'),
                               (incomplete, {}, r'G\.head\.0\.bias absent'),
                               (MLN(4, 2).state_dict(), {}, 'a MRDA MLN')):
        with pytest.raises(UserError, match=said):
            zoo.ship('new', given, facts)
    assert (zoo.ZOO / zoo.INDEX).read_bytes() == before and not (zoo.ZOO / 'new.safetensors.xz').exists()


def test_shipped_weights_are_complete():
    """Each entry of the index matches its file and has a card; exactly one is the default."""
    entries = zoo.index()
    assert entries
    for name, facts in entries.items():
        path = zoo.ZOO / facts['file']
        weights = load_weights(path)
        assert all(tensor.isfinite().all() for tensor in weights.values())
        assert path.stat().st_size < 2.1 * sum(tensor.numel() for tensor in weights.values())
        shows = zoo.facts_of(zoo.student_of(weights, path))
        assert {option: facts[option] for option in shows} == shows
        assert facts['file'] in (f'{name}.safetensors', f'{name}.safetensors.xz')
        assert facts['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert name in (zoo.ZOO / f'{name}.md').read_text(encoding='utf-8')
        network, _, _ = zoo.load_student(name)
        assert equal(network, {key: tensor.float() for key, tensor in weights.items()})
    assert sum(facts['default'] for facts in entries.values()) == 1
    shipped = {file for name, facts in entries.items() for file in (facts['file'], f'{name}.md')}
    optional = {f'{name}.{kind}' for name in entries for kind in ('map.json', 'png')}  # of app.py; a curve for the card
    assert {path.name for path in zoo.ZOO.iterdir()} - optional == {zoo.INDEX, FILE, 'mln', *shipped}


def before_and_after(said):
    """PSNR before and after the two adaptation steps of a test."""
    return [float(re.search(f'after {n} .*PSNR: ([0-9.]+)', said)[1]) for n in (0, 2)]


def test_shipped_meta_learning_networks_are_described_and_tested(cli, capsys):
    about, paths = (zoo.ZOO / 'mln' / 'README.md').read_text(encoding='utf-8'), [*(zoo.ZOO / 'mln').iterdir()]
    for path in paths:
        if '.safetensors' in path.suffixes:
            assert recognise(load_weights(path)).role == 'mln' and path.name in about
            for sigma in 2.6, 4:
                assert cli('--stage', 2, '--test_only', '--n_feats', 48, '--scale', 4, '--pre_train', path,
                           '--sig', sigma) == 0
                first, last = before_and_after(capsys.readouterr().out)
                assert last - 0.5 > first > 20
    assert len(paths) > 1


def test_sheet_of_photos_has_a_column_for_each_x4_network(shelf, tmp_path, monkeypatch):
    (tmp_path / 'assets').mkdir()
    monkeypatch.chdir(tmp_path)
    draw_photos.main()
    one = Image.open('assets/photos.webp').size
    zoo.ship('another', mrda.student(4, 1).state_dict(), {})
    draw_photos.main()
    assert Image.open('assets/photos.webp').size == (one[0] * 3 // 2, one[1])


def test_larger_steps_gain_more_under_large_blur(cli, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(STAGES, 2, STAGES[2])
    page = (Path(__file__).parents[1] / 'docs' / 'evidence.md').read_text(encoding='utf-8')
    (tmp_path / 'larger_steps.py').write_text(re.search(r'```python\n(# larger_steps.py\n.*?)```', page, re.S)[1])
    gains = []
    for extension in (), ('--extension', tmp_path / 'larger_steps.py'):
        assert cli(*extension, '--stage', 2, '--test_only', '--n_feats', 48, '--scale', 4,
                   '--pre_train', zoo.ZOO / 'mln' / 'mrda_mln48_x4_iso.safetensors.xz', '--sig', 4) == 0
        first, last = before_and_after(capsys.readouterr().out)
        gains.append(last - first)
    assert gains[1] > 1.2 * gains[0] > 0


def test_flat_areas_stay_flat_up_to_the_corners():
    """Within 3 levels of 255; without the replicated border, white drops by 77."""
    names = list(zoo.index())
    assert names
    for model in (load(name, device='cpu') for name in names):
        for side, grey in product((1, 16), (0, 128, 255)):
            plain = np.full((side, side, 3), grey, np.uint8)
            assert np.abs(upscale(plain, model).astype(int) - grey).max() <= 3


@pytest.mark.parametrize('name', zoo.index())
def test_bf16_is_within_a_level_of_single_precision_with_few_exceptions(name):
    """Of the photo; rounding the image itself, at the first or last layers, costs up to 5 levels."""
    for photo in photos.astronaut()[:96, 170:266], photos.coffee()[100:196, 200:296]:
        single, rounded = (upscale(photo, load(name, 'cpu', precision=precision)) for precision in ('single', 'bf16'))
        difference = np.abs(single.astype(int) - rounded)
        assert difference.max() <= 2 and (difference > 1).mean() < 1e-4 and difference.mean() < 0.15


def test_automatic_precision_is_bf16_on_cpus_that_have_it_only(shelf, monkeypatch):
    for found, precision in (({'amx_bf16': True}, 'bf16'), ({'avx512_bf16': True}, 'bf16'), ({'avx2': True}, 'single')):
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda found=found: found, raising=False)
        model = load('two', 'cpu')
        assert model.rounded == ROUNDED[precision]
        assert any('bf16' in note for note in model.notes) == (precision == 'bf16')
        assert load('two', 'cpu', precision='single').rounded is None
    monkeypatch.delattr(torch.cpu, 'get_capabilities')  # of an older PyTorch
    assert load('two', 'cpu').rounded is None
