"""Weights of another network are refused with the reason; published ones load unchanged."""
import goldens
import pytest
import torch

from model import kdsr, mrda
from model.mln import MLN
from model.weights import fit_weights, recognise
from utility import UserError

KEYS = goldens.keys()
NETWORKS = {'mln': lambda scale=2: MLN(4, scale),
            'mrda teacher': lambda scale=2: mrda.teacher(scale, 4, 1),
            'mrda student': lambda scale=2: mrda.student(scale, 1),
            'kdsr teacher': lambda scale=2: kdsr.teacher(scale, 4, 1, 1),
            'kdsr student': lambda scale=2: kdsr.student(scale, 4, 1, 1)}


@pytest.mark.parametrize('name', [name for name in KEYS if name != 'unet_discriminator'])
def test_published_files_are_recognised(name):
    found = recognise({key: torch.zeros(shape) for key, shape in KEYS[name].items()})
    size, _, role = name.rpartition('_')
    assert (found.family, found.role) == ('mrda' if name == 'mln' else name[:4], role)
    expected = {'mrda': {'n_blocks': 27, 'rgb_range': 1}, '': {'n_feats': 128},
                'kdsr_m': {'n_feats': 64, 'n_blocks': 53, 'n_resblocks': 9, 'rgb_range': 1},
                'kdsr_l': {'n_feats': 128, 'n_blocks': 28, 'n_resblocks': 5, 'rgb_range': 1},
                'kdsr_real': {'n_feats': 128, 'n_blocks': 42, 'n_resblocks': 6, 'rgb_range': 1}}[size]
    assert found.sizes == {'scale': 4, **expected, **({'n_feats': 128} if name == 'mrda_teacher' else {})}
    assert {key: list(tensor.shape) for key, tensor in found.build().state_dict().items()} == KEYS[name]


def test_weights_that_are_not_finite_are_refused():
    weights = MLN(4, 2).state_dict()
    weights['head.0.bias'][0] = torch.nan
    net = MLN(4, 2)
    with pytest.raises(UserError, match='w: holds values that are not finite'):
        fit_weights(net, weights, 'w')
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('needed', NETWORKS)
@pytest.mark.parametrize('given', NETWORKS)
@pytest.mark.parametrize('scale', [2, 3])
def test_weights_load_only_into_the_matching_network(needed, given, scale):
    net, weights = NETWORKS[needed](), NETWORKS[given](scale).state_dict()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    if (given, scale) == (needed, 2):
        fit_weights(net, weights, 'w.pt')
        assert all(torch.equal(net.state_dict()[key], weights[key]) for key in before)
        return
    said = 'another stage or family' if given != needed else '--scale 3 instead of 2'
    with pytest.raises(UserError, match=said) as error:
        fit_weights(net, weights, 'w.pt')
    assert '\n' not in str(error.value) and 1 <= str(error.value).count(' instead of ') <= 6
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize('net, other, said', [
    (MLN(4, 2), MLN(6, 2), '--n_feats 6 instead of 4'),
    (mrda.teacher(2, 4, 1), mrda.teacher(2, 6, 1), '--n_feats 6 instead of 4'),
    (mrda.student(2, 1), mrda.student(2, 2), '--n_blocks 2 instead of 1'),
    (kdsr.student(2, 4, 1, 1), kdsr.student(2, 4, 1, 2), '--n_resblocks 2 instead of 1'),
    (kdsr.student(2, 4, 1, 1), kdsr.student(2, 6, 1, 1), '--n_feats 6 instead of 4')])
def test_error_names_the_differing_option(net, other, said):
    with pytest.raises(UserError, match=said):
        fit_weights(net, other.state_dict(), 'w.pt')


def test_unknown_or_damaged_weights_are_refused():
    with pytest.raises(UserError, match='not weights of a network of this project'):
        fit_weights(MLN(4, 2), {'a': torch.zeros(2)}, 'w.pt')
    weights = MLN(4, 2).state_dict()
    del weights['body.0.bias']
    with pytest.raises(UserError, match=r'damaged MRDA MLN.*body\.0\.bias absent'):
        fit_weights(MLN(4, 2), weights, 'w.pt')


def test_half_precision_weights_are_converted():
    net, weights = MLN(4, 2), {key: value.half() for key, value in MLN(4, 2).state_dict().items()}
    fit_weights(net, weights, 'w.pt')
    assert all(p.dtype == torch.float32 and torch.equal(p, weights[name].float()) for name, p in net.named_parameters())


@pytest.mark.parametrize('network', [mrda.student, mrda.teacher, kdsr.student, kdsr.teacher])
def test_weights_of_another_data_range_are_refused(network):
    ours, others = (network(2, n_blocks=1, rgb_range=white) for white in (1, 255))
    for net, weights, said in ((ours, others, '--rgb_range 255, not 1'), (others, ours, '--rgb_range 1, not 255')):
        before = net.state_dict()['G.head.0.weight'].clone()
        with pytest.raises(UserError, match=said):
            fit_weights(net, weights.state_dict(), 'w.pt')
        assert torch.equal(net.state_dict()['G.head.0.weight'], before)
        fit_weights(net, net.state_dict(), 'w.pt')
    half = {key: tensor.half() for key, tensor in others.state_dict().items()}
    fit_weights(others, half, 'w.pt')
