"""A named update: a part of a stage that learns, with its optimiser, its rate and its loss scaling."""
import math
from argparse import Namespace

import torch
from torch import Tensor, nn

DECIDING = {'cuda'}  # devices that decide themselves whether a step is applied: their Adam is fused, see optim.guard


def make_optimizer(args: Namespace, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """--optimizer with its settings; the rate is set anew before each batch."""
    common = {'lr': args.lr_sr, 'weight_decay': args.weight_decay}
    if args.optimizer == 'SGD':
        return torch.optim.SGD(parameters, momentum=args.momentum, **common)
    if args.optimizer == 'RMSprop':
        return torch.optim.RMSprop(parameters, eps=args.epsilon, **common)
    return torch.optim.Adam(parameters, betas=(args.beta1, args.beta2), eps=args.epsilon,
                            fused=parameters[0].device.type in DECIDING or None, **common)


class Update:
    """What one update of a step moves: `parameters`, by `optimizer`; in half precision (`scaled`) its loss is scaled.

    A step calls backward(), gradient_norm(), then step(), or skip() where a guard forbids it. takes_veto: whether a
    tensor on the device can forbid step(). (PyTorch's fused SGD takes one too, but its first momentum is lost then.)
    """

    def __init__(self, name: str, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer,
                 scaled: bool) -> None:
        self.name, self.parameters, self.optimizer = name, parameters, optimizer
        kinds = torch.optim.Adam, torch.optim.AdamW
        self.takes_veto = isinstance(optimizer, kinds) and bool(optimizer.defaults['fused'])
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

    def scale_of(self, like: Tensor) -> Tensor:
        """What the loss is scaled by, a scalar on the device of `like`; above 1 a gradient may overflow by it alone."""
        return self.scaler.scale(torch.ones_like(like))

    def step(self, veto: Tensor | None = None) -> None:
        """Move the parameters. In half precision a gradient that is not finite moves nothing. veto: a bool tensor on
        the device, True and nothing is moved; it must be so for gradients that are not finite."""
        if veto is None:
            self.scaler.step(self.optimizer)
        else:
            self.optimizer.grad_scale, self.optimizer.found_inf = None, veto.float()
            self.optimizer.step()
            del self.optimizer.grad_scale, self.optimizer.found_inf
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
        # Before it loads, since a fused optimiser needs its count of steps on the device, where a CPU's is not.
        groups = [saved | own for saved, own in zip(state['optimizer']['param_groups'], settings, strict=True)]
        self.optimizer.load_state_dict({**state['optimizer'], 'param_groups': groups})
        if state['scaler'] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
