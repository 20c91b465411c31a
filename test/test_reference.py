"""The optimised implementation equals the direct one in reference/."""
import pytest
import torch

from data.degradation import AnisoGaussian, IsoGaussian, classic
from option import parse
from reference import method as plain
from reference.networks import MLN, kdsr, mrda
from stage import ROUNDED
from stages import STAGES
from utility import generator

SMALL = ['--n_feats', '6', '--n_blocks', '2', '--n_resblocks', '2', '--patch_size', '8', '--batch_size', '4',
         '--meta_batch_size', '2', '--task_iter', '2', '--test_iter', '3', '--device', 'cpu', '--data_train', 'none']
FAMILIES = {'mrda': (1, 2, 3, 4), 'kdsr': (3, 4)}


def build(stage, model='mrda', scale=4, *flags):
    """(args, stage) in float64; the networks' weights are random, those of the dynamic convolutions large."""
    args = parse([*SMALL, '--stage', str(stage), '--model', model, '--scale', str(scale), *flags])
    return args, STAGES[stage](args).double()


def plain_network(args, student):
    if args.model == 'kdsr':
        return kdsr(args.scale, args.n_feats, args.n_blocks, args.n_resblocks, student)
    return mrda(args.scale, args.n_feats, args.n_blocks, student)


def copy_of(network, made):
    made.double().load_state_dict(network.state_dict())
    return made


def plain_gradients(args, stage, hr, encoder_only):
    """{name: gradient} of the trained network after the same step in reference/method.py, and the loss."""
    draw = torch.Generator().manual_seed(7)

    def degrade(hr):
        return stage.degrade(hr, draw)

    mln = copy_of(stage.mln, MLN(args.n_feats, args.scale)) if args.model == 'mrda' else None
    rates = [1e-2, 5e-3, 5e-3]
    cue = plain.adapted_features(mln, rates, args.stage == 4) if mln else plain.pair_cue(args.scale)
    if args.stage == 1:
        trained, loss = mln, plain.stage1(mln, hr, degrade)
    elif args.stage == 2:
        trained = mln
        loss = plain.stage2(mln, hr, degrade, args.meta_batch_size, [args.lr_task] * args.task_iter)
    else:
        teacher = copy_of(stage.teacher, plain_network(args, student=False))
        if args.stage == 3:
            trained, loss = teacher, plain.stage3(teacher, cue, hr, degrade)
        else:
            trained = copy_of(stage.student, plain_network(args, student=True))
            loss = plain.stage4(trained, teacher, cue, hr, degrade, encoder_only, args.temperature, stage.feature_l1)
    return loss, {name: p.grad for name, p in trained.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('model, stage, encoder_only', [
    *((model, stage, False) for model, stages in FAMILIES.items() for stage in stages),
    ('mrda', 4, True), ('kdsr', 4, True)])
def test_losses_and_gradients_equal_the_reference(model, stage, encoder_only):
    for scale in (2, 3, 4):
        args, ours = build(stage, model, scale)
        ours.encoder_only = encoder_only
        hr = torch.rand(4, 3, 8 * scale, 8 * scale, generator=generator('cpu', scale), dtype=torch.double)
        loss = ours.losses(hr, torch.Generator().manual_seed(7), 'sr')['loss']
        loss.backward()
        expected, gradients = plain_gradients(args, ours, hr, encoder_only)
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-10, atol=0)
        learns = {name: p.grad for name, p in ours.trained.named_parameters() if p.grad is not None}
        # In the encoder's epochs the reference computes the SR network, too, without using it: its gradient is zero.
        moved = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
        assert learns.keys() == moved
        assert all(name.startswith('E_st.') for name in learns) if encoder_only else learns.keys() == gradients.keys()
        for name, gradient in learns.items():
            torch.testing.assert_close(gradient, gradients[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('model', FAMILIES)
@pytest.mark.parametrize('scale', [2, 3, 4])
@torch.no_grad()
def test_student_equals_the_reference_within_one_8_bit_level(model, scale):
    args = parse([*SMALL, '--stage', '4', '--model', model, '--scale', str(scale), '--test_only'])
    stage = STAGES[4](args).place(torch.device('cpu'))
    lq = torch.rand(1, 3, 13, 17)
    reference = plain_network(args, student=True)
    reference.load_state_dict(stage.student.state_dict())
    levels = [(sr.clamp(0, 1) * 255).round() for sr in (stage.predict(lq)[-1], reference(lq, lq)[0])]
    assert (levels[0] - levels[1]).abs().max() <= 1


@pytest.mark.parametrize('blur', [IsoGaussian(2.6), AnisoGaussian(3.5, 1.5, 0.35)], ids=str)
def test_degraded_images_equal_the_reference_within_one_8_bit_level(blur):
    hr = torch.rand(2, 3, 48, 64)
    isotropic = isinstance(blur, IsoGaussian)
    kernel = plain.gaussian(*([blur.sigma] * 2 + [0] if isotropic else [blur.lambda_1, blur.lambda_2, blur.theta]))
    for ours, theirs in zip(classic(blur, 4)(hr), plain.degrade(hr, 4, kernel), strict=True):
        difference = ((ours - theirs) * 255).round().abs()
        assert difference.max() <= 1 and difference.mean() < 1e-3


@pytest.mark.parametrize('model', FAMILIES)
@pytest.mark.parametrize('encoder_only', [False, True])
def test_stage_4_computes_nothing_that_is_not_used(model, encoder_only):
    args, stage = build(4, model)
    stage.encoder_only, calls, graphs = encoder_only, [], []

    def note(name, *outputs):
        calls.append(name)
        graphs.extend(name for output in outputs if output.requires_grad)

    watched = {'student.G': stage.student.G, 'teacher.G': stage.teacher.G}
    if stage.mln:
        watched |= {'mln.tail': stage.mln.tail, 'mln.body': stage.mln.body}
    for name, module in watched.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
    stage.teacher.encoder.register_forward_hook(lambda module, inputs, outputs: note('teacher.encoder', *outputs))
    stage.losses(torch.rand(4, 3, 32, 32, dtype=torch.double), torch.Generator(), 'sr')
    assert calls.count('student.G') == (not encoder_only)
    assert 'teacher.G' not in calls and calls.count('teacher.encoder') == 1 and 'teacher.encoder' not in graphs
    if stage.mln:  # the pass after the last adaptation step needs the body only, without a graph
        assert calls.count('mln.tail') == args.test_iter == calls.count('mln.body') - 1
        assert graphs.count('mln.body') == args.test_iter


@pytest.mark.parametrize('model', FAMILIES)
def test_only_the_input_of_a_block_is_kept_for_the_gradient(model):
    _, stage = build(4, model)
    width, kept = stage.student.G.head[0].out_channels, []
    x = torch.rand(2, width, 8, 8, dtype=torch.double, requires_grad=True)
    z = torch.rand(2, width, dtype=torch.double, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        stage.student.G.body[0](x, z)
    assert len({tensor.data_ptr() for tensor in kept if tensor.shape == x.shape}) <= 2


@pytest.mark.parametrize('precision', [name for name, kind in ROUNDED.items() if kind])
@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_bf16_gradients_have_the_same_direction(stage, precision):
    gradients = []
    for flags in ([], ['--precision', precision]):
        args = parse([*SMALL, '--stage', str(stage), *flags])
        ours = STAGES[stage](args).place(torch.device('cpu'))
        hr = torch.rand(4, 3, 32, 32, generator=generator('cpu', stage))
        losses = ours(hr, {hr.device: 3}, 'sr')
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        (losses['loss'] * 2.0**15).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ours.trained.parameters() if p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98
