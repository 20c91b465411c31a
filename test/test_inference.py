"""Tiles and the self-ensemble change nothing but how a result is computed."""
import torch
from torch import nn

from model.inference import self_ensemble, tiled


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
