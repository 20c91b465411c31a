"""Stage 2: MLN is meta-learned by first-order MAML, so that a few steps adapt it to any one degradation."""
from argparse import Namespace

import torch
from torch import Tensor
from torch.func import functional_call

from model import build
from model.adapt import adapt, first_order, step_sizes, weights_of
from stage import Source, Stage


class Stage2(Stage):
    """One step: for each of n_tasks degradations, the support half of the batch adapts MLN by n_steps of size lr_task;
    the loss of the adapted weights on the query half gives the gradient with respect to the original ones."""
    oracle = True

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.n_tasks = self.draws = args.meta_batch_size
        self.inner_rates = [args.lr_task] * args.task_iter
        self.test_rates = step_sizes(args.test_iter)
        self.trained = self.mln = build(args, 'mln')

    def sources(self, testing: bool) -> list[Source]:
        return [Source('pre_train', self.mln, stage=2 if testing else 1)]

    def losses(self, hr: Tensor, generator: torch.Generator, update: str) -> dict[str, Tensor]:
        tasks = [self.task_losses(hr, generator) for _ in range(self.n_tasks)]
        return {name: sum(losses[name] for losses in tasks) / self.n_tasks for name in tasks[0]}

    def task_losses(self, hr: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The outer losses of one task. The gradient of 'loss' with respect to MLN's weights is the first-order one."""
        lq, up = self.degrade(hr, generator)                                                # (B, 3, h, w), (B, 3, H, W)
        half = len(hr) // 2
        adapted = adapt(self.mln, lq[:half], up[:half], hr[:half], self.inner_rates)   # support

        def query(weights):
            sr, _ = functional_call(self.mln, weights, (lq[half:], up[half:]))         # (B/2, 3, H, W)
            losses.update(self.loss(sr, hr[half:]))
            return losses['loss']

        losses = {}
        losses['loss'] = first_order(weights_of(self.mln), adapted, query)
        return {name: loss if name == 'loss' else loss.detach() for name, loss in losses.items()}

    def super_resolve(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        return self.super_resolve_by_step(lq, up, hr)[-1]

    def super_resolve_by_step(self, lq: Tensor, up: Tensor, hr: Tensor) -> list[Tensor]:
        """sr before the first adaptation step on the test pair, and after each step."""
        images = []
        weights = adapt(self.mln, lq, up, hr, self.test_rates, watch=lambda sr, loss: images.append(sr))
        with torch.no_grad():
            sr, _ = functional_call(self.mln, weights, (lq, up))                       # (B, 3, sh, sw)
        return [*images, sr]
