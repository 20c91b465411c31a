"""A student as an ONNX file equals upscale.py on images of any size, and has metadata on its use."""
import importlib.util
import re
import sys
from pathlib import Path

import export_onnx
import pytest
import torch
from skimage import data as photos

from model import FAMILIES, kdsr, make, mrda
from model.weights import Sizes
from photo.upscaler import Upscaler
from process.extensions import import_files
from store.tensors import save_weights
from upscale import load

MISSING = [name for name in ('onnx', 'onnxruntime', *['onnxscript'] * export_onnx.DYNAMO)
           if not importlib.util.find_spec(name)]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f'{", ".join(MISSING)} of requirements-extra.txt missing')
NETWORKS = {'mrda': lambda scale, rgb_range: mrda.student(scale, 1, rgb_range),
            'kdsr': lambda scale, rgb_range: kdsr.student(scale, 8, 1, 1, rgb_range)}


def write(model='mrda', scale=2, rgb_range=1):
    """Write student.pt of a network in which every weight matters; returns its flag."""
    torch.manual_seed(scale)
    network = NETWORKS[model](scale, rgb_range)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith('bias') and parameter.requires_grad:  # so that errors at borders show
                parameter.normal_(std=0.1)
    save_weights('student.pt', network)
    return ['--pre_train_ST', 'student.pt']


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize('model, scale, rgb_range', [('mrda', 2, 255), ('mrda', 4, 1), ('kdsr', 3, 1)])
def test_export_equals_the_network_at_every_size(model, scale, rgb_range, capsys):
    import onnx
    import onnxruntime
    assert export_onnx.main([*write(model, scale, rgb_range), '--precision', 'bf16']) == 0
    printed = capsys.readouterr().out
    assert printed.count('max abs difference') == len(export_onnx.CHECKED)
    session = onnxruntime.InferenceSession('student.onnx', providers=['CPUExecutionProvider'])
    assert [(each.name, each.shape[:2]) for each in session.get_inputs()] == [('lq', [1, 3])]
    assert [each.name for each in session.get_outputs()] == ['sr']
    upscaler = load('student.pt', 'cpu', precision='single')
    scene = torch.from_numpy(photos.astronaut()[:120, 100:190].copy()).permute(2, 0, 1)[None] / 255
    for height, width in ((2, 2), (3, 3), (16, 16), (5, 40), (61, 33), (120, 90)):
        for lq in (torch.rand(1, 3, height, width), torch.ones(1, 3, height, width),
                   torch.full((1, 3, height, width), 0.02), scene[..., :height, :width]):
            sr = torch.from_numpy(session.run(None, {'lq': lq.numpy()})[0]).clamp(0, 1)
            assert (sr - upscaler.tensor(lq)).abs().max() < 1e-4
    said = {entry.key: entry.value for entry in onnx.load('student.onnx').metadata_props}
    assert said['scale'] == str(scale) and '[0, 1]' in said['input'] and 'float32' in said['input']


@needs_onnx
@pytest.mark.slow
def test_half_precision_halves_the_size_and_differs_by_less_than_half_a_level(capsys):
    import onnx
    flags = write('mrda', 2, 255)
    assert export_onnx.main([*flags, '--half']) == 0 and not Path('student.onnx').exists()
    differences = [float(each) for each in re.findall(r'from PyTorch (\S+)', capsys.readouterr().out)]
    assert 1e-5 < max(differences) < 2e-3
    half = onnx.load('student_half.onnx')
    floats = sum(p.numel() for p in mrda.student(2, 1).parameters())
    assert 2 * floats < Path('student_half.onnx').stat().st_size < 3 * floats
    assert [each.type.tensor_type.elem_type for each in (*half.graph.input, *half.graph.output)] == 2 * [
        onnx.TensorProto.FLOAT]
    assert {entry.key: entry.value for entry in half.metadata_props}['precision'].startswith('half')


@needs_onnx
@pytest.mark.slow
def test_from_a_run_folder_and_by_the_older_exporter(monkeypatch):
    monkeypatch.setattr(export_onnx, 'DYNAMO', False)
    export = torch.onnx.export
    if 'dynamo' in export.__code__.co_varnames:  # not the default of newer versions
        monkeypatch.setattr(torch.onnx, 'export', lambda *args, **more: export(*args, dynamo=False, **more))
    weights = Path('experiment/mine_x4_bicubic_iso/model/model_ST_last.pt')
    write('mrda', 4)
    weights.parent.mkdir(parents=True)
    Path('student.pt').rename(weights)
    assert export_onnx.main(['--save', 'mine']) == 0 and weights.with_suffix('.onnx').is_file()
    assert export_onnx.main(['--save', 'mine', '--out', 'out/x.onnx']) == 0 and Path('out/x.onnx').is_file()


@needs_onnx
def test_differing_graph_is_not_written(monkeypatch, capsys):
    forward = export_onnx.FrozenTail.forward
    monkeypatch.setattr(export_onnx.FrozenTail, 'forward', lambda self, x: forward(self, x) + 1e-3)
    assert export_onnx.main(write()) == 2
    said = capsys.readouterr().err
    assert 'differs from the network' in said and said.count('\n') == 1 and not Path('student.onnx').exists()


@pytest.mark.parametrize('model', NETWORKS)
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_exportable_equals_the_network(model, scale):
    torch.manual_seed(scale)
    network = NETWORKS[model](scale, 255)
    exported = export_onnx.exportable(network, scale, 255)
    lq = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert (exported(lq).clamp(0, 1) - Upscaler(network, scale, 255, lq.device).tensor(lq)).abs().max() < 1e-6


@pytest.mark.parametrize('flags, said', [
    (['--stage', '3'], '--stage 3'), (['--out', 'student.pt'], '.onnx'), (['--pre_train_ST', 'no.pt'], 'no.pt'),
    (['--scale', '3'], '--scale 3: student.pt has --scale 2'), (['--n_blocks', '2'], 'has --n_blocks 1'),
    (['--model', 'kdsr'], 'has --model mrda')])
def test_mistakes_are_one_line(flags, said, capsys, monkeypatch):
    monkeypatch.setattr(export_onnx, 'packages', lambda: None)
    assert export_onnx.main([*write(), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith('error: ') and error.count('\n') == 1


@pytest.mark.parametrize('name', ['onnx', 'onnxruntime'])
def test_a_missing_package_is_named(name, monkeypatch, capsys):
    for each in 'onnx', 'onnxruntime':
        monkeypatch.setitem(sys.modules, each, None if each == name else sys)
    assert export_onnx.main(write()) == 2
    error = capsys.readouterr().err
    assert f'needs the package {name}' in error and 'requirements-extra.txt' in error and error.count('\n') == 1


@needs_onnx
@pytest.mark.slow
def test_shipped_weights_are_exported_by_name_into_the_current_folder(capsys):
    assert export_onnx.main(['--pre_train_ST', 'kdsr_s_x4_iso_small']) == 0
    assert Path('kdsr_s_x4_iso_small.onnx').is_file() and 'n_blocks 16' in capsys.readouterr().out


@needs_onnx
@pytest.mark.slow
def test_family_of_an_extension_is_exported(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / 'docs/extending.md').read_text(encoding='utf-8')
    (tmp_path / 'attentive.py').write_text(re.search(r'^```python\n(# attentive.py\n.*?)^```$', page, re.M | re.S)[1])
    monkeypatch.setattr('sys.path', [*sys.path])
    monkeypatch.setitem(FAMILIES, 'attentive', None)
    import_files(str(tmp_path / 'attentive.py'))
    save_weights('own.pt', make('attentive', 'student', Sizes(scale=2, n_feats=8, n_blocks=2, rgb_range=1)))
    assert export_onnx.main(['--extension', 'attentive.py', '--pre_train_ST', 'own.pt']) == 0
    assert Path('own.onnx').is_file()
