"""Stage 5, adversarial fine-tuning: losses, initial weights, resuming, two ranks, tests of its weights."""
import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL
from ranks import finish, printed, train
from survival import same
from test_replicas import replicate

from loss.adversarial import gan_loss
from loss.distillation import kl_divergence
from loss.sharpening import sharpened
from option import parse, stages
from stages import STAGES
from store.tensors import load_checkpoint, load_weights
from utility import generator

FLAGS = ['--loss', 'L1', '--ema', '0.9', '--n_resblocks', '1', '--epochs_encoder', '0']
FAMILIES = {'mrda': '1234', 'kdsr': '34'}


def run(folder, model, stage, *flags, size=1):
    words = ['--model', model, '--stage', str(stage), *FLAGS, *map(str, flags)]
    assert finish(folder, size, train, *words) == [0] * size, printed(folder)


def folder_of(base, name):
    return base / f'experiment/{name}_x2_bicubic_iso/model'


@pytest.mark.parametrize('model', FAMILIES)
def test_resume_is_bit_identical(library, tmp_path, model):
    data = '--dir_data', library
    for stage in FAMILIES[model]:
        run(tmp_path, model, stage, *data, '--epochs_sr', 1, '--test_every', 1)
    run(tmp_path, model, 5, *data, '--save', 'whole')
    for epochs in 1, 2:
        run(tmp_path, model, 5, *data, '--save', 'parts', '--epochs_sr', epochs)
    whole, parts = (load_checkpoint(folder_of(tmp_path, name) / 'state_2.pt') for name in ('whole', 'parts'))
    assert all(same(whole[key], parts[key]) for key in ('networks', 'updates', 'ema', 'history'))
    assert 'discriminator.conv1.weight_u' in whole['networks'] and set(whole['updates']) == {'sr', 'discriminator'}
    weights = load_weights(folder_of(tmp_path, 'whole') / 'model_GAN_last.pt')
    assert {key.split('.')[0] for key in weights} == {'E_st', 'G'}
    run(tmp_path, model, 5, *data, '--save', 'whole', '--test_only')
    assert '--pre_train_ST: ' in printed(tmp_path) and 'model_GAN_last.pt' in printed(tmp_path)


def test_two_ranks_equal_one_process(library, tmp_path):
    data = '--dir_data', library
    for stage in 3, 4:
        run(tmp_path, 'kdsr', stage, *data, '--epochs_sr', 1, '--test_every', 1)
    alike = '--sig_min', 1, '--sig_max', 1, '--optimizer', 'SGD'  # ranks have different random numbers
    for size in 1, 2:
        run(tmp_path, 'kdsr', 5, *data, *alike, '--save', f'size{size}', size=size)
    one, two = (load_checkpoint(folder_of(tmp_path, f'size{size}') / 'state_2.pt') for size in (1, 2))
    for key, tensor in one['networks'].items():
        torch.testing.assert_close(two['networks'][key], tensor, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize('sharpen', [False, True])
def test_losses_of_both_updates(sharpen):
    args = parse(['--stage', '5', '--model', 'kdsr', *SMALL, *FLAGS, '--gan_weight', '0.3', '--rgb_range', '255',
                  '--sharpen_hr', str(sharpen)])
    stage = STAGES[5](args)
    assert list(stage.updates()) == ['sr', 'discriminator']
    hr = 255 * torch.rand(2, 3, 24, 24)
    ours = {update: stage.losses(hr, generator('cpu', 1), update) for update in stage.updates()}
    lq, up = stage.degrade(hr, generator('cpu', 1))
    sr, feature = stage.student(lq)
    _, target = stage.teacher(lq, stage.cue(lq, up, hr))
    kl, l1 = kl_divergence(feature, target, 0.15), (sr - (sharpened(hr, 255) if sharpen else hr)).abs().mean()
    stage.eval()
    judge = {name: stage.discriminator(image / 255) for name, image in (('hr', hr), ('sr', sr))}
    gan = gan_loss(judge['sr'], real=True)
    assert ours['sr'].keys() == {'loss', 'SR', 'KL', 'feature L1', 'GAN'}
    torch.testing.assert_close(ours['sr']['loss'], l1 + kl + 0.3 * ours['sr']['GAN'])
    torch.testing.assert_close(ours['sr']['GAN'], gan, rtol=0.05, atol=0.05)  # u and v of the norms have been updated
    discriminator = ours['discriminator']
    torch.testing.assert_close(discriminator['fake'], gan_loss(judge['sr'], real=False), rtol=0.05, atol=0.05)
    torch.testing.assert_close(discriminator['real'], gan_loss(judge['hr'], real=True), rtol=0.05, atol=0.05)
    torch.testing.assert_close(discriminator['loss'], discriminator['real'] + discriminator['fake'])
    assert torch.autograd.grad(ours['sr']['loss'], stage.student.G.head[0].weight)[0].any()
    with pytest.raises(RuntimeError, match=r'unused|not have been used'):  # it has none for S
        torch.autograd.grad(discriminator['loss'], stage.student.G.head[0].weight)


@pytest.mark.parametrize('precision', ['single', 'bf16', 'half'])
def test_data_parallel_replicas_do_both_updates(precision):
    """Each update replicates the stage anew; the discriminator's uses the image of the student's."""
    flags = ['--stage', '5', '--model', 'kdsr', *SMALL, *FLAGS, '--precision', precision]
    stage, device = STAGES[5](parse(flags)).place(torch.device('cpu')), torch.device('cpu')
    hr = torch.rand(2, 3, 24, 24)
    for update, part in stage.updates().items():
        losses = replicate(stage)(hr, {device: 1}, update)
        losses['loss'].sum().backward()
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert all(p.grad.any() for p in stage.discriminator.parameters()) and not stage.fakes


def test_without_distillation_no_teacher_is_needed():
    stage = STAGES[5](parse(['--stage', '5', *SMALL, '--loss', 'L1', '--distill', '0']))
    losses = stage.losses(torch.rand(2, 3, 24, 24), generator('cpu', 1), 'sr')
    assert losses.keys() == {'loss', 'SR', 'GAN'}
    assert [source.flag for source in stage.sources(testing=False)] == ['pre_train_ST']
    torch.testing.assert_close(losses['loss'], losses['SR'] + losses['GAN'])


def test_stage_all_runs_the_stages_of_the_paper():
    for model, expected in ('mrda', (1, 2, 3, 4)), ('kdsr', (3, 4)):
        assert stages(parse(['--stage', 'all', '--model', model])) == expected


@pytest.mark.parametrize('size', [(64, 80), (20, 70)])
def test_sharpening_equals_opencv(size):
    hr = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    hr[:, size[1] // 2:] = 0.5                                            # a flat half, which must not change
    kernel = cv2.getGaussianKernel(51, 0)
    residual = hr - cv2.filter2D(hr, -1, kernel @ kernel.T, borderType=cv2.BORDER_REFLECT_101)
    mask = cv2.filter2D((np.abs(residual) * 255 > 10).astype(np.float32), -1, kernel @ kernel.T,
                        borderType=cv2.BORDER_REFLECT_101)
    expected = mask * np.clip(hr + 0.5 * residual, 0, 1) + (1 - mask) * hr
    ours = sharpened(torch.from_numpy(hr * 255).permute(2, 0, 1)[None], 255)[0].permute(1, 2, 0).numpy() / 255
    gray = sharpened(torch.from_numpy(hr[..., :1]).permute(2, 0, 1)[None])[0, 0].numpy()
    assert np.abs(gray - expected[..., 0]).max() < 1e-4
    assert np.abs(ours - expected).max() < 1e-4 and np.abs(ours[:, -5:] - 0.5).max() < 0.05
