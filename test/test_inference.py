"""Tiles give the result of the whole image; the self-ensemble is equivariant."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from model import kdsr, mrda
from model.inference import OVERLAP, TILE, in_tiles, reach, represent, self_ensemble, super_resolve, whole
from utility import UserError, out_of_memory

# Upscales by the student with all memory, then with less and less until the whole image does not fit.
SHORTAGE = """
import resource
import torch
from model import mrda
from model.inference import in_tiles
torch.set_num_threads(1)
torch.manual_seed(1)
student = mrda.student(4, n_blocks=1).requires_grad_(False)
lq = torch.rand(1, 3, 160, 200)
rep, _ = student.encoder(lq)
parts = []
def compute(part):
    result = student.G(part, rep)
    parts.append(tuple(part.shape[-2:]))
    return result
expected = compute(lq)
used = next(int(line.split()[1]) << 10 for line in open('/proc/self/status') if line.startswith('VmSize'))
for mib in range(400, 0, -20):
    parts.clear()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mib << 20), resource.RLIM_INFINITY))
    result = in_tiles(compute, lq, 4, overlap=24)
    if len(parts) > 1:
        print(max(parts), (result - expected).abs().max().item())
        break
"""


def test_tiles_equal_the_whole_image_if_the_overlap_covers_the_receptive_field():
    net = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)], nn.Upsample(scale_factor=3)).double()
    lq = torch.rand(1, 3, 41, 29, dtype=torch.double)
    with torch.no_grad():
        whole = net(lq)
        assert in_tiles(net, lq, 3, tile=10, overlap=4).allclose(whole, atol=1e-12)
        assert not in_tiles(net, lq, 3, tile=10, overlap=2).allclose(whole, atol=1e-12)


def test_self_ensemble_of_an_equivariant_map_changes_nothing():
    lq, up = torch.rand(1, 3, 5, 7), torch.rand(1, 3, 10, 14)
    upsample = nn.Upsample(scale_factor=2)
    assert self_ensemble(lambda lq, up, hr: upsample(lq) + up, lq, up, None).allclose(upsample(lq) + up)


def test_self_ensemble_is_equivariant():
    lq, net = torch.rand(1, 3, 6, 8), nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        turned = self_ensemble(net, lq.rot90(1, (2, 3)))
        assert turned.allclose(self_ensemble(net, lq).rot90(1, (2, 3)), atol=1e-6)
        assert not net(lq.rot90(1, (2, 3))).allclose(net(lq).rot90(1, (2, 3)), atol=1e-6)


class Scarce:
    """Upscales by nearest neighbours images of at most `most` pixels; otherwise raises `error`, out of memory."""

    def __init__(self, most, error):
        self.most, self.error, self.sides = most, error, []

    def __call__(self, part):
        self.sides.append(max(part.shape[-2:]))
        if part.shape[-2] * part.shape[-1] > self.most:
            raise self.error
        return nn.functional.interpolate(part, scale_factor=2)


@pytest.mark.parametrize('error', [MemoryError(), torch.cuda.OutOfMemoryError('CUDA out of memory'),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_tiles_are_halved_when_out_of_memory(error):
    assert out_of_memory(error)
    lq = torch.rand(1, 3, 590, 600)
    scarce = Scarce(160 * 160, error)
    assert torch.equal(in_tiles(scarce, lq, 2), Scarce(10 ** 9, error)(lq))
    assert scarce.sides[:4] == [600, TILE + OVERLAP, 256 + OVERLAP, 128 + OVERLAP]
    assert max(scarce.sides[4:]) <= 64 + 2 * OVERLAP
    scarce = Scarce(115 * 115, error)
    assert torch.equal(in_tiles(scarce, lq[..., :120, :120], 2), Scarce(10 ** 9, error)(lq[..., :120, :120]))
    assert scarce.sides[:2] == [120, 64 + OVERLAP]                        # larger tiles would be the whole image again


def test_finished_tiles_are_not_repeated():
    parts = []

    def compute(part):
        parts.append(tuple(part.shape[-2:]))
        if len(parts) == 3:                                               # the third of four tiles is too much
            raise MemoryError
        return part
    lq = torch.rand(1, 3, 128, 128)
    assert torch.equal(in_tiles(compute, lq, 1, 64, overlap=0), lq)
    assert parts == [(64, 64)] * 3 + [(32, 32)] * 8


def test_out_of_memory_is_reported_with_sizes():
    with pytest.raises(UserError, match=r'^out of memory on an image of 300x290 pixels, even in tiles of 32x32; .+$'):
        in_tiles(Scarce(9, MemoryError()), torch.rand(1, 3, 290, 300), 2)
    with pytest.raises(UserError, match='image of 9x8 pixels'):
        whole(Scarce(9, MemoryError()), torch.rand(1, 3, 8, 9))


def test_other_errors_are_not_treated_as_out_of_memory():
    for compute in (lambda error: in_tiles(Scarce(9, error), torch.rand(1, 3, 90, 90), 2),
                    lambda error: whole(Scarce(9, error), torch.rand(1, 3, 90, 90))):
        with pytest.raises(RuntimeError, match='sizes do not fit'):
            compute(RuntimeError('sizes do not fit'))


@pytest.mark.skipif(sys.platform != 'linux', reason='limits of memory are not kept elsewhere')
def test_real_memory_limit_changes_only_rounding():
    # Freed memory is returned at once, so that the limit is set above what is really needed.
    environment = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_ARENA_MAX': '1'}
    done = subprocess.run([sys.executable, '-c', SHORTAGE], cwd=Path(__file__).parent.parent, env=environment,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    side, difference = done.stdout.rsplit(maxsplit=1)
    assert side == '(152, 152)' and float(difference) < 1e-5


ENCODERS = {'mrda': lambda: mrda.student(2, 1), 'kdsr': lambda: kdsr.student(2, 8, 1, 3)}


@pytest.mark.parametrize('family', ENCODERS)
@pytest.mark.parametrize('size', [(49, 70), (5, 3)])
def test_representation_in_tiles_equals_that_of_the_whole_image(family, size):
    encoder, lq = ENCODERS[family]().encoder.double().requires_grad_(False), torch.rand(2, 3, *size).double()
    expected = encoder(lq)[0]
    for tile in (None, 32, 36):
        assert represent(encoder, lq, tile).allclose(expected, rtol=1e-5, atol=1e-7)
    assert not represent(encoder, lq[..., :-1], 32).allclose(expected, rtol=1e-5, atol=1e-7)


def test_representation_when_out_of_memory():
    encoder = mrda.student(2, 1).encoder.requires_grad_(False)
    lq, forward, sides = torch.rand(1, 3, 120, 200), encoder.E[0].forward, []

    def scarce(x):
        sides.append(max(x.shape[-2:]))
        if sides[-1] > 130:
            raise MemoryError
        return forward(x)
    expected = encoder(lq)[0]
    encoder.E[0].forward = scarce
    assert represent(encoder, lq).allclose(expected, rtol=1e-5) and sides[:3] == [200, 140, 76]


def test_receptive_field_is_computed_correctly():
    student = mrda.student(4, 1)
    assert reach(student.encoder.E) == (11, 4)
    seen = _seen(student.G, student.encoder(torch.rand(1, 3, 8, 8))[0], 25)
    assert 0 < seen <= reach(student.G)[0] <= seen + 1


def _seen(network, rep, side):
    """Largest distance from the centre pixel of lq at which lq affects its block in sr."""
    network, rep = network.double(), rep.detach().double()
    lq = torch.rand(1, 3, side, side).double().requires_grad_()
    middle, s = side // 2, 4
    network(lq, rep)[..., s * middle:s * (middle + 1), s * middle:s * (middle + 1)].sum().backward()
    where = lq.grad.abs().sum((0, 1)).nonzero() - middle
    return where.abs().max().item()


@pytest.mark.parametrize('gain', [1, pytest.param(1.7, marks=pytest.mark.slow)])
def test_tiles_equal_the_whole_image_on_a_full_size_network(gain):
    """Within a tenth of a level, although the overlap covers half of the receptive field of 27 blocks; also with blocks
    stronger than at initialisation."""
    student = mrda.student(4).requires_grad_(False)
    for block in student.G.body[0].body:
        for conv in (block.conv1, block.conv2, block.da_conv1.kernel[2], block.da_conv2.kernel[2]):
            conv.weight.mul_(gain)
    assert reach(student.G)[0] > OVERLAP
    lq = torch.rand(1, 3, 24, 136)
    expected = student.G(lq, student.encoder(lq)[0])
    assert (255 * (super_resolve(student, lq, 4, tile=68) - expected)).abs().max() < 0.1
    assert (expected.amax() - expected.amin()) > 0.1


def test_tiles_with_self_ensemble_equal_the_whole_image():
    student, lq = mrda.student(2, 1).requires_grad_(False), torch.rand(1, 3, 50, 33)
    expected = self_ensemble(lambda lq: student(lq)[0], lq)
    assert super_resolve(student, lq, 2, ensemble=True).allclose(expected, atol=1e-5)
    assert super_resolve(student, lq, 2, tile=32, ensemble=True).allclose(expected, atol=1e-5)
    assert not super_resolve(student, lq, 2).allclose(expected, atol=1e-5)
