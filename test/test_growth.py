"""A grown network computes the same function bit for bit, and its new blocks are trained from the first step."""
import grow_weights
import pytest
import torch

from model import kdsr, mrda
from model.growth import grow, rescale, sources
from model.weights import recognise
from store.tensors import load_weights, save_weights

NETWORKS = {'mrda student': lambda n: mrda.student(2, n_blocks=n), 'mrda teacher': lambda n: mrda.teacher(2, 8, n),
            'kdsr student': lambda n: kdsr.student(2, 8, n, 1), 'kdsr teacher': lambda n: kdsr.teacher(2, 8, n, 1)}


def outputs(network, kind):
    lq = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    if 'teacher' not in kind:
        return network(lq)
    return network(lq, torch.rand(2, 8 if 'mrda' in kind else 15, 12, 10, generator=torch.Generator().manual_seed(2)))


def test_old_blocks_keep_their_order_and_are_spread_evenly():
    assert sources(2, 5) == [(0, True), (0, False), (1, True), (1, False), (1, False)]
    for n_old, n_new in (8, 27), (8, 9), (1, 4), (27, 53):
        found = sources(n_old, n_new)
        assert [source for source, same in found if same] == list(range(n_old)) and len(found) == n_new
        copies = [sum(source == index for source, _ in found) for index in range(n_old)]
        assert max(copies) - min(copies) <= 1


@pytest.mark.parametrize('kind', NETWORKS)
def test_outputs_are_equal_and_gradients_reach_the_new_blocks_after_one_step(kind):
    small, large = NETWORKS[kind](2), NETWORKS[kind](5)
    large.load_state_dict(grow(small.state_dict(), 5, 'small'))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(outputs(large, kind), outputs(small, kind), strict=True))
    optimizer, new = torch.optim.SGD(large.G.parameters(), 0.1), large.G.body[0].body[1]
    last = [module for module in new.modules() if isinstance(module, torch.nn.Conv2d)][-1].weight
    assert not last.any()
    for _ in range(2):
        optimizer.zero_grad()
        outputs(large, kind)[0].square().mean().backward()
        optimizer.step()
    assert last.any() and all(p.grad.any() for p in new.parameters())


@pytest.mark.parametrize('kind', NETWORKS)
@pytest.mark.parametrize('scale', (3, 4))
def test_another_scale_keeps_all_but_the_tail(kind, scale):
    old = NETWORKS[kind](2).half().state_dict()
    new = rescale(old, scale, 'old')
    tail = {key for key in new if '.tail.' in key or (kind, key) == ('kdsr teacher', 'E.E.0.weight')}
    assert tail and all(torch.equal(new[key], old[key]) for key in new.keys() - tail)
    assert recognise(new).sizes == recognise(old).sizes | {'scale': scale}
    assert all(tensor.dtype == torch.float16 and tensor.any() for key, tensor in new.items() if key in tail)


def test_command_keeps_half_precision_and_reports_errors_in_one_line(tmp_path, capsys):
    small, large = tmp_path / 'small.pt', tmp_path / 'large.pt'
    save_weights(small, mrda.student(2, n_blocks=2).half())
    assert grow_weights.main([str(small), str(large), '--n_blocks', '3']) == 0
    assert all(tensor.dtype == torch.float16 for tensor in load_weights(large).values())
    for words, said in (([str(small), str(large), '--n_blocks', '3'], 'exists already'),
                        ([str(small), str(tmp_path / 'x.pt'), '--n_blocks', '2'], 'has 2 blocks already'),
                        ([str(small), str(tmp_path / 'x.pt'), '--scale', '2'], 'is for x2 already'),
                        ([str(small), str(tmp_path / 'x.pt')], 'nothing to change'),
                        ([str(tmp_path / 'none.pt'), 'x.pt', '--n_blocks', '3'], 'neither a file nor shipped')):
        assert grow_weights.main(words) == 2
        assert said in capsys.readouterr().err
    both = tmp_path / 'both.pt'
    assert grow_weights.main([str(small), str(both), '--n_blocks', '3', '--scale', '4']) == 0
    assert recognise(load_weights(both)).sizes.items() >= {'n_blocks': 3, 'scale': 4}.items()
    assert '--n_blocks 3 --scale 4' in capsys.readouterr().out
