"""The degradation step and the protocol of docs/extending.md: training, resuming and testing, from one file each."""
import csv
import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

from data.degradation import DEGRADATIONS, Context, Pipeline
from data.degradation.step import STEPS
from data.protocol import PROTOCOLS
from store.tensors import load_weights

PAGE = Path(__file__).parent.parent / 'docs' / 'extending.md'


@pytest.fixture
def documented(tmp_path):
    """documented(name) imports the page's file of that name; its table entries are removed after the test."""
    kept = [(registry, dict(registry)) for registry in (DEGRADATIONS, PROTOCOLS, STEPS)]

    def load(name):
        path = tmp_path / name
        path.write_text(re.search(rf'```python\n(# {name}\n.*?)```', PAGE.read_text(encoding='utf-8'), re.S)[1])
        spec = spec_from_file_location(path.stem, path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    yield load
    for registry, content in kept:
        registry.clear()
        registry.update(content)


def teacher(run):
    return load_weights(f'experiment/{run}_x2_compressed/model/model_TA_last.pt')


def rows(run, name):
    return list(csv.DictReader(Path(f'experiment/{run}/results/{name}.csv').read_text().splitlines()))


@pytest.mark.parametrize('per', ['batch', 'sample'])
def test_custom_step_trains_and_resumes_bit_for_bit(documented, cli, capsys, per):
    documented('compressed.py')
    flags = '--model', 'kdsr', '--n_resblocks', 1, '--stage', 3, '--degradation_per', per, '--degradation'
    assert cli(*flags, 'compressed', '--save', 'whole') == 0
    assert cli(*flags, 'compressed', '--save', 'parts', '--epochs_sr', 1) == 0
    assert cli(*flags, 'compressed', '--save', 'parts') == 0
    whole, parts = teacher('whole'), teacher('parts')
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert cli(*flags, 'classic', '--load', 'parts_x2_compressed', '--epochs_sr', 3) == 2
    assert '--degradation was compressed, is now classic' in capsys.readouterr().err
    row = rows('whole_x2_compressed', 'Set2_sigma_1.2_noise_0_compression_70')[0]
    assert row['degradation'] == 'sigma 1.2, noise 0, compression 70'
    assert str(Pipeline.from_dict(json.loads(row['pipeline']))) == row['degradation']


def test_compression_equals_the_codec(documented):
    module = documented('compressed.py')
    image = torch.rand(1, 3, 24, 32)
    rgb = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    for rgb_range in (1, 255):
        ours = module.Compression(50.0)(image * rgb_range, Context(None, rgb_range, 24, 32)) * (255 / rgb_range)
        assert np.array_equal(ours[0].round().byte().permute(1, 2, 0).numpy(), module.jpeg(rgb, 50))


def test_custom_protocol_is_tested(documented, cli):
    documented('three_noises.py')
    flags = '--model', 'kdsr', '--n_resblocks', 1, '--stage', 3, '--save', 'whole'
    assert cli(*flags, '--epochs_sr', 1) == 0 and cli(*flags, '--test_only', '--protocol', 'noises') == 0
    table = json.loads(Path('experiment/whole_x2_bicubic_iso/results/protocol_noises.json').read_text())
    assert [row['noise'] for row in table['degradations']] == [0, 15, 30]
    assert [str(Pipeline.from_dict(row['degradation'])) for row in table['degradations']] == [
        f'sigma 1.2, noise {level}' for level in (0, 15, 30)]
    assert len(table['means']) == 4 and rows('whole_x2_bicubic_iso', 'Set2_sigma_1.2_noise_30')
