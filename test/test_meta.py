"""A whole training step never waits for the device, and leaves no tensor elsewhere: shown on PyTorch's `meta` device,
whose tensors have no values, so that whatever asks for one raises, as does a tensor of another device."""
import sys

import numpy as np
import pytest
import torch
import torch._dynamo  # by the optimiser otherwise, where its import meets the stand-ins below
from conftest import SMALL
from torch.overrides import TorchFunctionMode

import optim.guard
import optim.update
import stage as stage_module
import trainer_stage5
from data import degradation
from data.degradation import step as steps
from data.degradation.camera import JPEG
from data.degradation.mixed_order import RandomJPEG, RandomOrder
from data.degradation.resize import _resize_matrix
from data.degradation.second_order import RandomBlur, RandomEnd, RandomNoise, RandomResize
from loss import LOSSES
from model import adapt
from model.discriminator import UNetDiscriminator
from optim.ema import EMA
from option import parse
from process.group import Process
from process.signals import Stopper
from stages import STAGES
from trainer import Trainer

META = torch.device('meta')
pytestmark = pytest.mark.skipif(torch.__version__.startswith('2.3.'), reason='PyTorch 2.3 lacks functions on meta')
STAGES_OF = {'mrda': (1, 2, 3, 4, 5), 'kdsr': (3, 4, 5)}
ROUNDED = 'conv2d', 'linear', 'matmul', '__matmul__', 'einsum', 'conv1d'  # what autocast computes in 16 bits


class Generator(torch.Generator):
    """Of the meta device, for which PyTorch has none."""
    device = META


class Transfer:
    """The one transfer to the host that a step may begin, and nobody waits for: of its losses, norm, scale and stop."""

    def __init__(self, values):
        assert values.is_meta
        self.count = len(values)

    def tolist(self):
        return [0.5] * (self.count - 2) + [1.0, 0.0]


class Autocast:
    """torch.autocast for the meta device, which it does not support; nor does torch.utils.checkpoint know this one, so
    that 16 bits are tried without recomputing."""
    active = (None,)

    def __init__(self, device, dtype=None, enabled=True, cache_enabled=True):
        self.dtype = dtype if enabled else None

    def __enter__(self):
        Autocast.active += (self.dtype,)

    def __exit__(self, *_):
        Autocast.active = Autocast.active[:-1]


class Watch(TorchFunctionMode):
    """Rounds as Autocast says; refuses copies from the host that wait until the device has done everything before."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, '__name__', ''), kwargs or {}
        dtype = Autocast.active[-1]
        if dtype and name in ROUNDED:
            args = [each.to(dtype) if isinstance(each, torch.Tensor) and each.is_floating_point() else each
                    for each in args]
        result = func(*args, **kwargs)
        made = name in ('tensor', 'as_tensor', 'new_tensor')
        moved = name in ('to', 'cuda') and not args[0].is_meta and not kwargs.get('non_blocking')
        if (made or moved) and isinstance(result, torch.Tensor) and result.is_meta:
            raise RuntimeError(f'{name}() copies from the host and waits')
        return result


@pytest.fixture(autouse=True)
def meta(monkeypatch):
    """The meta device as one that decides itself whether a step is applied."""
    monkeypatch.setattr(optim.update, 'DECIDING', {'cuda', 'meta'})
    monkeypatch.setattr(optim.guard, 'Transfer', Transfer)
    for module in 'torch.optim.optimizer', 'torch.optim.adam':  # where the versions of PyTorch look it up
        monkeypatch.setattr(sys.modules[module], '_get_fused_kernels_supported_devices', lambda: ['meta'],
                            raising=False)
    monkeypatch.setattr(stage_module, 'seeded', lambda device, seed: Generator().manual_seed(seed))
    monkeypatch.setattr(torch, 'autocast', Autocast)
    monkeypatch.setattr(trainer_stage5, 'build_discriminator', lambda args: UNetDiscriminator(4, args.n_colors))
    # A codec writes files, and files are bytes of the host: the one step of a degradation that waits, also on CUDA.
    monkeypatch.setattr(JPEG, '__call__', lambda self, image, context: image.clone())
    for side, method in ((24, 'downsample'), (12, 'upsample'), (24, 's-fold')):
        _resize_matrix(side, 2, method, META)  # which the first step copies, and caches


def train(model, stage, *flags, steps=1):
    args = parse([*SMALL, '--model', model, '--n_resblocks', '1', '--stage', str(stage), '--ema', '0.9', '--loss',
                  '1*L1+1*MSE', '--epochs_encoder', '0', *flags])
    trainer = Trainer(args, STAGES[stage](args).place(META), (), None, None, Process(META, Stopper()))
    for update in trainer.updates.values():
        assert update.takes_veto
    trainer.begin_epoch(1)
    with Watch():
        for trainer.batch in range(steps):
            trainer.step(torch.zeros(4, 3, 24, 24, dtype=torch.uint8), 1e6)
    assert all(p.is_meta for p in trainer.parameters())
    return trainer


@pytest.mark.parametrize('flags', [
    '--precision single', '--degradation second_order', '--degradation mixed_order',
    '--precision bf16 --recompute False --blur_type aniso_gaussian --noise 10 --degradation_per sample',
    '--precision half --recompute False --noise 10 --mode s-fold'])
@pytest.mark.parametrize('model, stage', [(model, stage) for model, stages in STAGES_OF.items() for stage in stages])
def test_a_step_of_every_stage_stays_on_the_device(model, stage, flags):
    train(model, stage, *flags.split())


@pytest.mark.parametrize('stage, flags', [
    (4, '--epochs_encoder 1'),
    (3, '--blur_type file --kernels kernels.npy'),
    (3, '--n_colors 1 --degradation_per sample'),
    (5, '--sharpen_hr --recompute False'), (4, '--rgb_range 255 --distill 0 --blur_type aniso_gaussian')])
def test_other_options_stay_on_the_device(stage, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save('kernels.npy', np.ones((3, 5, 5)) / 25)
    train('mrda', stage, *flags.split(), steps=2)


def test_a_checkpoint_of_the_cpu_continues_on_the_device():
    states = []
    for device in 'cpu', META:
        parameter = torch.nn.Parameter(torch.ones(2, device=device))
        optimizer = optim.update.make_optimizer(parse([*SMALL, '--stage', '1']), [parameter])
        update = optim.update.Update('sr', [parameter], optimizer, scaled=False)
        for state in states:
            update.load_state_dict(state)
        update.backward(parameter.sum())
        update.step()
        states.append(update.state_dict())
    assert all(value.is_meta for value in states[1]['optimizer']['state'][0].values())


D = degradation
STEPS = [D.IsoGaussian((0.2, 3.0)), D.IsoGaussian(2.0), D.AnisoGaussian((0.2, 3.0), (0.2, 3.0), (0.0, 3.0)),
         D.GeneralisedGaussian(1.0, 2.0, 0.5, 0.7, 7), D.Plateau(1.0, 2.0, 0.5, 1.5, 7), D.Sinc(2.0, 7),
         D.Downsample(2), D.Downsample(2, 's-fold'), D.Noise((1.0, 30.0)), D.Noise(5.0, gray=True), D.Clamp(),
         D.PoissonNoise(0.5), D.PoissonNoise((0.1, 0.5), gray=True), D.Resize(0.7, 'area'), D.Resize(1.3, 'bilinear'),
         D.Resize(0.5, 'bicubic'), D.Round()]
# Above, or drawn as one of these:
RANDOM = JPEG, D.OwnKernel, RandomBlur, RandomResize, RandomNoise, RandomEnd, RandomJPEG, RandomOrder


@pytest.mark.parametrize('step', STEPS, ids=str)
def test_each_degradation_step_stays_on_the_device(step):
    image = torch.zeros(2, 3, 24, 24, device=META)
    generator = Generator()
    with Watch():
        for n in (1, 2) if step.per_image else (1,):
            drawn, = step.draw(generator, n)
            assert drawn(image.clone(), steps.Context(generator, 1, 24, 24)).is_meta


def test_no_degradation_step_is_left_out():
    product = {name for name, kind in steps.STEPS.items() if kind.__module__.startswith('data.degradation')}
    assert product == {each.name for each in (*STEPS, *RANDOM)}


def planted(what, original, tensor_of):
    """`original` with something in it that a GPU has to be waited for, or that is not there."""
    def call(*args, **kwargs):
        result = original(*args, **kwargs)
        what(tensor_of(args, result))
        return result
    return call


PLANTS = {
    'item': lambda tensor: tensor.sum().item(),
    'bool': lambda tensor: bool((tensor > 0).any()),
    'cpu': lambda tensor: tensor.cpu(),
    'tensor of the CPU': lambda tensor: tensor + torch.zeros(tensor.shape),
    'copy from the host': lambda tensor: tensor + torch.tensor([1.0], device=tensor.device),
}


PLACES = {  # what it is planted into, and a tensor that is there
    'loss': (LOSSES['L1'], 'forward', lambda args, result: args[1]),
    'adaptation': (adapt, 'value_and_gradients', lambda args, result: next(iter(result[1].values()))),
    'degradation': (D.Noise, '__call__', lambda args, result: result),
    'EMA': (EMA, 'update', lambda args, result: next(iter(args[0].state_dict().values()))),
}


@pytest.mark.parametrize('what', PLANTS)
@pytest.mark.parametrize('place', PLACES)
def test_what_waits_or_strays_is_caught(monkeypatch, place, what):
    owner, name, tensor_of = PLACES[place]
    monkeypatch.setattr(owner, name, planted(PLANTS[what], getattr(owner, name), tensor_of))
    with pytest.raises((RuntimeError, NotImplementedError), match=r'meta|copies from the host'):
        train('mrda', 3, '--noise', '10')
