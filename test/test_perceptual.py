"""LPIPS and DISTS by torchmetrics, here with random weights; a missing package or weights are one line."""
import math
import sys

import pytest
import torch

from model import mrda
from report import perceptual
from report.metric import METRICS
from store.tensors import save_weights

metrics = pytest.importorskip('torchmetrics', reason='torchmetrics of requirements-extra.txt missing')
NAMES = list(perceptual.NETWORKS)


@pytest.fixture(autouse=True)
def fresh():
    """Clear the networks cached by other tests."""
    perceptual.network.cache_clear()
    yield
    perceptual.network.cache_clear()


@pytest.fixture
def features(monkeypatch):
    """Random weights instead of those that torchvision would download."""
    from torchvision import models

    def state_dict(self, *_, **__):
        build = models.alexnet if type(self) is models.AlexNet_Weights else models.vgg16
        return build(weights=None).state_dict()
    monkeypatch.setattr(models.WeightsEnum, 'get_state_dict', state_dict)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_distance_is_zero_for_equal_images_and_grows_with_noise(features, name):
    before = torch.get_rng_state()
    perceptual.network(name)
    assert torch.equal(before, torch.get_rng_state())  # the metric does not change the random numbers of a training
    hr = torch.rand(1, 3, 48, 56)
    near, far = ((hr + scale * torch.randn(hr.shape)).clamp(0, 1) for scale in (0.02, 0.3))
    function = METRICS[name].function
    assert function(hr, hr, 4) == pytest.approx(0, abs=1e-5) and 0 < function(near, hr, 4) < function(far, hr, 4)
    assert function(255 * far, 255 * hr, 4, 255) == pytest.approx(function(far, hr, 4), abs=1e-5)
    assert math.isnan(function(hr[..., :39], hr[..., :39], 4))


@pytest.fixture
def tested(cli, capsys):
    save_weights('student.pt', mrda.student(2, n_blocks=1))

    def run(*flags):
        return cli('--stage', 4, '--test_only', '--pre_train_ST', 'student.pt', *flags), capsys.readouterr()
    return run


@pytest.mark.slow
def test_lpips_is_in_the_log_and_the_table(features, tested):
    status, said = tested('--metrics', 'psnr_y,lpips')
    assert status == 0 and 'LPIPS: 0.' in said.out and 'LPIPS (AlexNet' in said.out


@pytest.mark.parametrize('name', NAMES)
def test_missing_weights_are_reported_before_the_test(tested, monkeypatch, name):
    from torchvision import models

    def refuse(*_, **__):
        raise OSError('no network')
    monkeypatch.setattr(models.WeightsEnum, 'get_state_dict', refuse)
    status, said = tested('--metrics', f'psnr_y,{name}')
    assert status == 2 and said.err.count('\n') == 1 and 'PSNR' not in said.out
    assert f'--metrics {name}: its weights are missing (no network); download https://' in said.err


def test_missing_package_is_reported_before_the_test(tested, monkeypatch):
    for module in 'torchmetrics', 'torchmetrics.image', 'torchmetrics.functional.image.dists':
        monkeypatch.setitem(sys.modules, module, None)
    for name in NAMES:
        status, said = tested('--metrics', name)
        assert status == 2 and said.err.count('\n') == 1
        assert f'--metrics {name}: the package torchmetrics is missing' in said.err and 'requirements-extra' in said.err
