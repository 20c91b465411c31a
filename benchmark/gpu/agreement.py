"""Agreement of the device with the CPU: golden numbers, weights after some steps; steps without synchronisation."""
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmark.cases import our_step
from benchmark.gpu.part import Report, Setting, layout, tf32
from data.degradation import AnisoGaussian, IsoGaussian, classic
from model import kdsr, mrda
from model.adapt import AdaptedFeatures
from model.mln import MLN
from process.group import Process
from process.signals import Stopper
from stages import STAGES
from trainer import Trainer
from utility import ROUNDED, arithmetic, place

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / 'test'))
import goldens  # the inputs and weights of test/golden/

# Largest difference, as a part of the largest magnitude. float32: that of the goldens. On a CPU bf16 was up to 7e-3 and
# half up to 1e-3 apart; TF32 has as many bits as half. Of adaptation it is the change of features that is compared.
TOLERANCE = {'float32': 1e-4, 'TF32': 5e-3, 'bf16': 3e-2, 'half': 5e-3}
ADAPTATION = {'float32': 5e-4, 'TF32': 0.1}
STEPS, APART = 20, {'float32': 0.02, 'TF32': 0.3}  # of what the steps changed the weights by; see weights()


def goldens_of(setting: Setting, precision: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields (name, ours, golden) for networks and adaptation."""
    device, rounded, golden = setting.device, ROUNDED[precision], goldens.load('mrda')

    def put(net):
        return place(goldens.fill(net), device, rounded)

    lq, up, hr = (goldens.smooth(name, (2, 3, *size)).to(device)
                  for name, size in (('lr', (12, 16)), ('up', (48, 64)), ('hr', (48, 64))))
    with arithmetic(device, rounded):
        mln = put(MLN(128, 4))
        sr, features = mln(lq, up)
        yield 'MLN, result', goldens.thinned(sr), golden['mln_sr']
        yield 'MLN, features', features[:, golden['channels']], golden['mln_feat']
        for short, net, cue in ('ta', mrda.teacher(4), features), ('st', mrda.student(4), None):
            sr, feature = put(net)(lq, cue)
            yield f'MRDA {short}, result', goldens.thinned(sr), golden[f'{short}_sr']
            yield f'MRDA {short}, representation', feature, golden[f'{short}_fea']
        if not setting.quick:
            other = goldens.load('kdsr')
            both = kdsr.PairCue(4)(lq, None, hr)
            for short, net, cue in ('ta', kdsr.teacher(4), both), ('st', kdsr.student(4), None):
                yield f'KDSR-M {short}, result', goldens.thinned(put(net)(lq, cue)[0]), other[f'kdsr_m_{short}_sr']
        if precision == 'single':  # differences of features: 16 bits leave few digits of them
            for stage in 3, 4:
                moved = AdaptedFeatures(mln, 7, freeze_tail=stage == 4)(lq, up, hr) - mln(lq)[1]
                yield (f'adaptation as in stage {stage}', moved[:, golden['channels']],
                       golden[f'adapt{stage}_feat7_minus_feat0'])


@torch.no_grad()
def published(setting: Setting, report: Report) -> None:
    """Numbers of the public implementations against ours on the device, in each arithmetic."""
    for name, (precision, allowed) in setting.arithmetic.items():
        with tf32(allowed):
            for what, ours, golden in goldens_of(setting, precision):
                apart = float((ours.float().cpu() - golden).abs().max() / golden.abs().max())
                most = (ADAPTATION if what.startswith('adaptation') else TOLERANCE)[name]
                good = report.check(apart <= most, f'{what} in {name}: {apart:.1e} apart')
                report.add(what=what, arithmetic=name, apart=f'{apart:.1e}', tolerance=most, result=good)
    kernel, levels = goldens.load('degradation'), 0
    names = [each for each in kernel if each.startswith(('iso_', 'aniso_')) and each.endswith('_lr')]
    for each in names:
        levels = max(levels, degraded(each, kernel, setting.device))
    good = report.check(levels <= 0.001, f'{levels:.2%} of the degraded values differ from the goldens')
    report.add(what=f'{len(names)} degradations', arithmetic='float32', apart=f'{levels:.2%} of the levels',
               tolerance='0.10%', result=good)


def degraded(name: str, golden: dict[str, Tensor], device: torch.device) -> float:
    """The fraction of 8-bit values of a noise-free golden degradation that differ on the device."""
    kind, *numbers, _ = name.split('_')
    values = [*map(float, numbers), 0.0, 0.0]
    blur = IsoGaussian(values[0]) if kind == 'iso' else AnisoGaussian(values[0], values[1], torch.pi * values[2] / 180)
    lq, _ = classic(blur, 4)(goldens.smooth('deg_hr', (2, 3, 48, 64)).to(device))
    return float(((lq.cpu() - golden[name]) * 255).round().ne(0).float().mean())


def trained(setting: Setting, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All trained weights in one vector before and after STEPS steps on fixed pairs, generated on the CPU."""
    feats, blocks, steps, inner = (8, 1, 4, 2) if setting.quick else (64, 8, STEPS, 5)
    size = setting.size._replace(device=device.type, batch=4, patch=16, n_feats=feats, n_blocks=blocks)
    args = size.options(number, '--epochs_encoder=0', f'--meta_batch_size={inner}', f'--task_iter={inner}')
    stage = STAGES[number](args).place(device)
    trainer = Trainer(args, stage, (), None, None, Process(device, Stopper()))
    hr = (goldens.smooth('first gpu', (4, 3, 64, 64)) * 255).byte()
    lq, up = classic(IsoGaussian(2.0), 4)(hr / 255)
    stage.degradation = lambda hr, *_: (lq.to(device), up.to(device))
    trainer.begin_epoch(1)
    before = torch.cat([p.detach().flatten().cpu() for p in trainer.parameters()])
    for trainer.batch in range(steps):
        trainer.step(hr, torch.inf)
    trainer.guard.settle()
    return before, torch.cat([p.detach().flatten().cpu() for p in trainer.parameters()])


def weights(setting: Setting, report: Report) -> None:
    """The distance of the device's weights from the CPU's, as a part of how far the steps moved them. Adam divides by
    the gradient's size, so that roundings of the smallest gradients count as much as those of the largest. A rehearsal
    on the CPU compares its two layouts."""
    for number in 1, 2, 3, 4:
        before, expected = trained(setting, number, torch.device('cpu'))
        for name in (each for each in APART if each in setting.arithmetic):
            with tf32(setting.arithmetic[name][1]):
                if setting.device.type == 'cpu':
                    with layout('contiguous'):
                        _, ours = trained(setting, number, setting.device)
                else:
                    _, ours = trained(setting, number, setting.device)
            apart = float((ours - expected).norm() / (expected - before).norm())
            good = report.check(apart <= APART[name], f'stage {number} in {name}: {apart:.1e} apart')
            report.add(stage=number, arithmetic=name, apart=f'{apart:.1e}', tolerance=APART[name], result=good)


def waits(setting: Setting, report: Report) -> None:
    """A step of every stage while PyTorch raises an error at every synchronisation. The event for the values of a step
    is not counted; JPEG needs synchronisation, so second-order degradation is left out."""
    setting.needs_cuda('PyTorch detects synchronisation only there')
    for number in 1, 2, 3, 4, 5:
        for name, (precision, _) in setting.arithmetic.items():
            step = our_step(setting.size._replace(batch=4, patch=24, precision=precision), number, more=['--loss=L1'])
            for _ in range(3):
                step()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode('error')
            try:
                step()
                found = ''
            except RuntimeError as error:
                found = str(error).splitlines()[0]
            finally:
                torch.cuda.set_sync_debug_mode('default')
            good = report.check(not found, f'stage {number} in {name} waits: {found}')
            report.add(stage=number, arithmetic=name, result=good)
