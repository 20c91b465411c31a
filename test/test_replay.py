"""Replaying steps as a CUDA graph; here a stand-in computes again what was captured, as there is no GPU."""
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL

from optim.replay import Replay, replay
from option import parse
from process.group import Process
from process.signals import Stopper
from stages import STAGES
from trainer import Trainer
from utility import generator

CPU = torch.device('cpu')


class Graph:
    """Replays as a torch.cuda.CUDAGraph does: reads and writes the tensors of the capture."""

    def __init__(self):
        self.replay, self.count = None, 0


@pytest.fixture
def graphs(monkeypatch):
    """A list of the graphs that are captured on a CPU."""
    made = []

    def apart(self, images):
        return self.compute(*images)

    def capture(self, images):
        self._images, self._graph = [image.clone() for image in images], Graph()
        losses = self._losses = self.compute(*self._images)
        gradients = self._gradients = [parameter.grad for parameter in self.update.parameters]
        made.append(self._graph)

        def again():
            self._graph.count += 1
            found = self.compute(*self._images)
            for place, loss in zip(losses.values(), found.values(), strict=True):
                place.copy_(loss)
            for parameter, gradient in zip(self.update.parameters, gradients, strict=True):
                if gradient is not None:
                    gradient.copy_(parameter.grad)
                parameter.grad = gradient
        self._graph.replay = again

    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: None)
    monkeypatch.setattr(torch.cuda, 'set_stream', lambda stream: None)
    monkeypatch.setattr(Replay, '_apart', apart)
    monkeypatch.setattr(Replay, '_capture', capture)
    return made


def trained(number, flags, replays):
    """The losses of ten steps, in two epochs, and the weights after them."""
    args = parse(['--stage', str(number), *SMALL, '--degradation_per', 'sample', *flags])
    trainer = Trainer(args, STAGES[number](args), (), None, None, Process(CPU, Stopper()))
    if replays:
        trainer.replay = Replay(trainer.stage, next(iter(trainer.updates.values())), trainer.quantized, print)
    losses = []
    for epoch in 1, 2:
        trainer.epoch = epoch - 1
        trainer.begin_epoch(epoch)
        for trainer.batch in range(5):
            hr = (255 * torch.rand(4, 3, 24, 24, generator=generator('cpu', epoch, trainer.batch))).byte()
            losses += [outcome.losses for outcome in trainer.step(hr, float('inf'))]
    return losses, [p.detach().clone() for p in trainer.parameters()]


@pytest.mark.parametrize('number, flags, captured', [
    (1, [], 1), (2, [], 1), (3, [], 1), (4, ['--epochs_encoder', '1'], 2),
    (4, ['--distill', '0', '--epochs_encoder', '0', '--optimizer', 'Muon', '--qat', '2'], 1)])
def test_replayed_steps_are_the_same(graphs, number, flags, captured):
    expected, weights = trained(number, flags, replays=False)
    losses, ours = trained(number, flags, replays=True)
    assert len(losses) == 10 and losses == expected
    assert all(torch.equal(a, b) for a, b in zip(ours, weights, strict=True))
    assert len(graphs) == captured and sum(graph.count for graph in graphs) == 10 - 3 * captured


def test_steps_that_cannot_be_captured_are_the_same(graphs, monkeypatch, capsys):
    capture = Replay._capture

    def failing(self, images):
        capture(self, images)
        self.stage.drawn = [None]  # as after a failure before degrade()
        raise RuntimeError('CUDA error: operation not permitted when stream is capturing\nand more')

    monkeypatch.setattr(Replay, '_capture', failing)
    assert trained(3, [], replays=True)[0] == trained(3, [], replays=False)[0]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and 'cannot be captured: CUDA error' in said[0] and len(graphs) == 1
    assert not any(graph.count for graph in graphs)


@pytest.mark.parametrize('flags, group, number, expected', [
    ([], 1, 4, True), (['--compile', 'False'], 1, 4, False), (['--recompute', 'True'], 1, 4, False),
    (['--train_lr', 'LR'], 1, 4, False), (['--optimizer', 'SGD'], 1, 4, False), ([], 2, 4, False), ([], 1, 5, False)])
def test_steps_are_replayed_where_it_is_possible(monkeypatch, flags, group, number, expected):
    monkeypatch.setattr('optim.update.DECIDING', {'cpu'})
    args = parse(['--stage', str(number), *SMALL, '--loss', 'L1', '--compile', 'True', '--recompute', 'False', *flags])
    stage = STAGES[number](args)
    updates = Trainer(args, stage, (), None, None, Process(CPU, Stopper())).updates
    gpu = SimpleNamespace(device=torch.device('cuda'), n_gpus=1, group=SimpleNamespace(size=group))
    assert (replay(args, stage, updates, None, gpu, print) is not None) is expected
    assert replay(args, stage, updates, None, Process(CPU, Stopper()), print) is None
