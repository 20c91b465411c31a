"""A named update: a part of a stage that learns, with its optimiser, its rate and its loss scaling."""
import math
from argparse import Namespace

import torch
from torch import Tensor, nn


def make_optimizer(args: Namespace, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """--optimizer with its settings; the rate is set anew before each batch."""
    common = {'lr': args.lr_sr, 'weight_decay': args.weight_decay}
    if args.optimizer == 'SGD':
        return torch.optim.SGD(parameters, momentum=args.momentum, **common)
    if args.optimizer == 'RMSprop':
        return torch.optim.RMSprop(parameters, eps=args.epsilon, **common)
    return torch.optim.Adam(parameters, betas=(args.beta1, args.beta2), eps=args.epsilon,
                            fused=parameters[0].is_cuda or None, **common)


class Update:
    """What one update of a step moves: `parameters`, by `optimizer`; in half precision (`scaled`) its loss is scaled.

    A step calls backward(), gradient_norm(), then step(), or skip() where a guard forbids it.
    """

    def __init__(self, name: str, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer,
                 scaled: bool) -> None:
        self.name, self.parameters, self.optimizer = name, parameters, optimizer
        self.scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=scaled)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group['lr'] = rate

    def backward(self, loss: Tensor) -> None:
        """The gradient of `loss`, a scalar, replaces the one before."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()

    def gradient_norm(self) -> Tensor:
        """The norm of the gradient, a scalar on its device."""
        self.scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(self.parameters, math.inf)  # infinite limit: measured, nothing clipped

    def may_overflow(self) -> bool:
        """Whether a gradient that is not finite may come from the scaling alone: the next steps are scaled by less."""
        return self.scaler.get_scale() > 1

    def step(self) -> None:
        """Move the parameters. In half precision a gradient that is not finite moves nothing."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def skip(self) -> None:
        """Leave the parameters as they are."""
        self.scaler.update()

    def state_dict(self) -> dict:
        """What the update is continued from: the optimiser's moments, the scale of the loss."""
        return {'optimizer': self.optimizer.state_dict(), 'scaler': self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what state_dict() gave. Settings of the optimiser stay as the options have them now."""
        settings = [{key: value for key, value in group.items() if key != 'params'}
                    for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state['optimizer'])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        if state['scaler'] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
