"""Tiles and the self-ensemble change nothing but how a result is computed."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from model.inference import fitting, self_ensemble, tiled, whole
from utility import UserError, out_of_memory

# Enlarges by the student with all memory, then with less and less of it until the whole image no longer fits.
SHORTAGE = """
import resource
import torch
from model import mrda
from model.inference import fitting
torch.set_num_threads(1)
torch.manual_seed(1)
student = mrda.student(4, n_blocks=1).requires_grad_(False)
lq = torch.rand(1, 3, 160, 200)
rep, _ = student.encoder(lq)
parts = []
def enlarge(part):
    result = student.G(part, rep)
    parts.append(tuple(part.shape[-2:]))
    return result
expected = enlarge(lq)
used = next(int(line.split()[1]) << 10 for line in open('/proc/self/status') if line.startswith('VmSize'))
for mib in range(400, 0, -20):
    parts.clear()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mib << 20), resource.RLIM_INFINITY))
    result = fitting(enlarge, lq, 4)
    if len(parts) > 1:
        print(max(parts), (result - expected).abs().max().item())
        break
"""


def test_tiles_equal_the_whole_where_the_overlap_covers_the_receptive_field():
    net = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)], nn.Upsample(scale_factor=3)).double()
    lq = torch.rand(1, 3, 41, 29, dtype=torch.double)
    with torch.no_grad():
        whole = net(lq)
        assert tiled(net, lq, 3, tile=10, overlap=4).allclose(whole, atol=1e-12)
        assert not tiled(net, lq, 3, tile=10, overlap=2).allclose(whole, atol=1e-12)


def test_self_ensemble_of_an_equivariant_map_is_the_map():
    lq, up = torch.rand(1, 3, 5, 7), torch.rand(1, 3, 10, 14)
    enlarge = nn.Upsample(scale_factor=2)
    assert self_ensemble(lambda lq, up, hr: enlarge(lq) + up, lq, up, None).allclose(enlarge(lq) + up)


def test_self_ensemble_is_equivariant():
    lq, net = torch.rand(1, 3, 6, 8), nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        turned = self_ensemble(net, lq.rot90(1, (2, 3)))
        assert turned.allclose(self_ensemble(net, lq).rot90(1, (2, 3)), atol=1e-6)
        assert not net(lq.rot90(1, (2, 3))).allclose(net(lq).rot90(1, (2, 3)), atol=1e-6)


class Scarce:
    """Enlarges by nearest neighbours where the image has at most `most` pixels; above, memory runs out as `error`."""

    def __init__(self, most, error):
        self.most, self.error, self.sides = most, error, []

    def __call__(self, part):
        self.sides.append(max(part.shape[-2:]))
        if part.shape[-2] * part.shape[-1] > self.most:
            raise self.error
        return nn.functional.interpolate(part, scale_factor=2)


@pytest.mark.parametrize('error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory'),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_where_memory_runs_out_tiles_are_halved(error):
    assert out_of_memory(error)
    lq = torch.rand(1, 3, 290, 300)
    scarce = Scarce(120 * 120, error)
    assert torch.equal(fitting(scarce, lq, 2), Scarce(10 ** 9, error)(lq))
    assert scarce.sides[:3] == [300, 280, 152] and max(scarce.sides[3:]) <= 64 + 2 * 24
    scarce = Scarce(100 * 100, error)
    assert torch.equal(fitting(scarce, lq[..., :120, :120], 2), Scarce(10 ** 9, error)(lq[..., :120, :120]))
    assert scarce.sides[:2] == [120, 88]                                  # tiles of 256 would be the whole again


def test_too_little_memory_is_told_with_sizes():
    with pytest.raises(UserError, match=r'^memory runs out on an image of 300x290 pixels, even in tiles of 32x32; .+$'):
        fitting(Scarce(9, MemoryError()), torch.rand(1, 3, 290, 300), 2)
    with pytest.raises(UserError, match='image of 9x8 pixels'):
        whole(Scarce(9, MemoryError()), torch.rand(1, 3, 8, 9))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    for compute in (lambda error: fitting(Scarce(9, error), torch.rand(1, 3, 90, 90), 2),
                    lambda error: whole(Scarce(9, error), torch.rand(1, 3, 90, 90))):
        with pytest.raises(RuntimeError, match='sizes do not fit'):
            compute(RuntimeError('sizes do not fit'))


@pytest.mark.skipif(sys.platform != 'linux', reason='limits of memory are not kept elsewhere')
def test_a_real_shortage_changes_nothing_but_rounding():
    # Memory that is freed goes back at once, so that what is used at the limit's setting is what is needed.
    environment = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_ARENA_MAX': '1'}
    done = subprocess.run([sys.executable, '-c', SHORTAGE], cwd=Path(__file__).parent.parent, env=environment,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    side, difference = done.stdout.rsplit(maxsplit=1)
    assert side == '(152, 152)' and float(difference) < 1e-5
