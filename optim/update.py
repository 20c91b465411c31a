"""A named update: a trained part of a stage, with its optimiser, learning rate and loss scaling."""
import math
from argparse import Namespace

import torch
from torch import Tensor, nn

from optim.muon import Muon

DECIDING = {'cuda'}  # devices that decide whether a step is applied: their Adam is fused, see optim.guard


def make_optimizer(args: Namespace, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of --optimizer with its settings; the learning rate is set before each batch."""
    common = {'lr': args.lr_sr, 'weight_decay': args.weight_decay}
    fused = parameters[0].device.type in DECIDING or None
    if args.optimizer == 'SGD':
        return torch.optim.SGD(parameters, momentum=args.momentum, **common)
    if args.optimizer == 'RMSprop':
        return torch.optim.RMSprop(parameters, eps=args.epsilon, **common)
    if args.optimizer == 'Muon':
        return Muon(parameters, betas=(args.beta1, args.beta2), eps=args.epsilon, fused=fused, **common)
    return torch.optim.Adam(parameters, betas=(args.beta1, args.beta2), eps=args.epsilon, fused=fused, **common)


class Update:
    """One update of a step: trains `parameters` by `optimizer`; in half precision (`scaled`) with loss scaling.

    A step calls backward(), gradient_norm(), then step(), or skip() if a guard forbids it. takes_veto: whether a tensor
    on the device can forbid step(). (PyTorch's fused SGD supports this, too, but then loses its first momentum.)
    """

    def __init__(self, name: str, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer,
                 scaled: bool) -> None:
        self.name, self.parameters, self.optimizer = name, parameters, optimizer
        kinds = torch.optim.Adam, torch.optim.AdamW, Muon
        self.takes_veto = type(optimizer) in kinds and bool(optimizer.defaults['fused'])
        self.scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=scaled)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group['lr'] = rate

    def backward(self, loss: Tensor) -> None:
        """Compute the gradient of `loss`, a scalar; it replaces the previous one."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()

    def gradient_norm(self) -> Tensor:
        """The norm of the gradient, a scalar on its device."""
        self.scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(self.parameters, math.inf)  # infinite limit: measured, nothing clipped

    def scale_of(self, like: Tensor) -> Tensor:
        """The loss scale, a scalar on the device of `like`; above 1 it may itself make a gradient overflow."""
        return self.scaler.scale(torch.ones_like(like))

    def step(self, veto: Tensor | None = None) -> None:
        """Change the parameters. In half precision a gradient that is not finite has no effect. veto: a bool tensor on
        the device; if True, as it must be for gradients that are not finite, the parameters are not changed."""
        if veto is None:
            self.scaler.step(self.optimizer)
        else:
            self.optimizer.grad_scale, self.optimizer.found_inf = None, veto.float()
            self.optimizer.step()
            del self.optimizer.grad_scale, self.optimizer.found_inf
        self.scaler.update()

    def skip(self) -> None:
        """Skip the step: the parameters are not changed."""
        self.scaler.update()

    def state_dict(self) -> dict:
        """The state to resume from: the optimiser's moments, the loss scale."""
        return {'optimizer': self.optimizer.state_dict(), 'scaler': self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Load what state_dict() returned. Settings of the optimiser are those of the current options."""
        settings = [{key: value for key, value in group.items() if key != 'params'}
                    for group in self.optimizer.param_groups]
        # Set before loading: a fused optimiser needs its step count on the device, unlike one of a CPU checkpoint.
        groups = [saved | own for saved, own in zip(state['optimizer']['param_groups'], settings, strict=True)]
        self.optimizer.load_state_dict({**state['optimizer'], 'param_groups': groups})
        if state['scaler'] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
