"""The memory of a training step, planned on PyTorch's `meta` device, whose tensors have no values."""
import weakref
from argparse import Namespace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from model.common import Blocks
from process.group import Process
from process.signals import Stopper
from stages import STAGES
from trainer import Trainer
from utility import ROUNDED, UserError, memory_format

META = torch.device('meta')
IN_16_BITS = 'conv2d', 'linear', 'matmul', '__matmul__', 'einsum'  # functions that autocast computes in 16 bits
MARGIN = 1.25  # safety factor of a plan: workspace of convolutions, fragmentation


class Plan(NamedTuple):
    """Bytes of one training step. networks: all weights; state: gradients, moments and moving average; kept:
    activations for the backward pass; peak: largest sum at any time."""
    networks: int
    state: int
    kept: int
    peak: int


class Live(TorchDispatchMode):
    """Counts the bytes of live meta tensors: `now`, and `peak`, the largest so far. form: memory format of the results
    of convolutions, which are always contiguous on the meta device."""

    def __init__(self, form: torch.memory_format) -> None:
        super().__init__()
        self.form, self.now, self.peak = form, 0, 0
        self._known = {}  # {storage: weak reference with a callback}

    def note(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not tensor.is_meta or key in self._known:
            return

        def gone(_):
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> object:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and result.ndim == 4:
            result = result.contiguous(memory_format=self.form)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        return result


class Rounding(TorchFunctionMode):
    """Autocast to `dtype` (None: none), which the meta device lacks."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func, types, args=(), kwargs=None) -> object:
        if self.dtype and getattr(func, '__name__', '') in IN_16_BITS:
            args = [each.to(self.dtype) if isinstance(each, Tensor) and each.is_floating_point() else each
                    for each in args]
        return func(*args, **(kwargs or {}))


def _round_again(stage: nn.Module, rounding: Rounding) -> None:
    """Apply `rounding` to blocks recomputed in the backward pass, which suspends all modes."""
    for block in (block for chain in stage.modules() if isinstance(chain, Blocks) for block in chain.body):
        def forward(x, kernels, plain=block.forward):
            with rounding:
                return plain(x, kernels)
        block.forward = forward


@torch.enable_grad()
def supported() -> bool:
    """Whether this version of PyTorch checkpoints gradients on the meta device, which 2.3 does not."""
    try:
        checkpoint(torch.neg, torch.zeros(1, device=META, requires_grad=True), use_reentrant=False)
    except AttributeError:
        return False
    return True


@torch.enable_grad()
def training_plan(args: Namespace, device: torch.device, batch: int) -> Plan:
    """The Plan of a step of the stage of `args` on `batch` patches, in the memory format of `device`.

    Not included: memory of the degradation, which is freed before the networks run, and workspace of kernels.
    Raises UserError if this version of PyTorch cannot run the step on the meta device.
    """
    if not supported():
        raise UserError(f'the memory of a training step cannot be planned by PyTorch {torch.__version__}; upgrade it')
    form = memory_format(device, ROUNDED[args.precision])
    stage = STAGES[args.stage](args).to(META, memory_format=form)
    stage.degradation = lambda hr, *_: (hr[..., ::args.scale, ::args.scale].clone(), hr.clone())
    stage.lr_scale = None
    _round_again(stage, Rounding(ROUNDED[args.precision]))
    trainer = Trainer(args, stage, (), None, None, Process(META, Stopper()))
    trainer.begin_epoch(args.epochs_encoder + 1)  # the epoch with the largest step
    side = args.patch_size * args.scale
    with Live(form) as live, Rounding(ROUNDED[args.precision]):
        for tensor in (*stage.parameters(), *stage.buffers()):
            live.note(tensor)
        networks = live.now
        for tensor in trainer.ema.state_dict().values() if trainer.ema else ():
            live.note(tensor)
        for update in trainer.updates.values():  # creates the moments
            for parameter in update.parameters:
                parameter.grad = torch.zeros_like(parameter)
            update.optimizer.step()
        state, kept = live.now - networks, 0
        for update in trainer.updates.values():
            update.optimizer.zero_grad()
        live.peak = live.now
        hr = torch.empty(batch, args.n_colors, side, side, device=META)                  # (B, 3, P, P)
        for name, update in trainer.updates.items():
            trainer.learn(name)
            before = live.now
            loss = stage.losses(hr, None, name)['loss']
            kept = max(kept, live.now - before)
            loss.backward()
            del loss
            update.optimizer.step()
    return Plan(networks, state, kept, live.peak)


def choose_recompute(args: Namespace, process: Process) -> list[str]:
    """Resolve --recompute auto: False on a GPU with enough free memory for a step without recomputing, else True.
    Returns a note about it."""
    if args.recompute != 'auto':
        return []
    args.recompute = True
    if process.device.type != 'cuda' or args.test_only or args.stage < 3 or not supported():
        return []
    share = args.batch_size // (process.n_gpus * process.group.size)
    needed = MARGIN * training_plan(Namespace(**{**vars(args), 'recompute': False}), process.device, share).peak
    free, _ = torch.cuda.mem_get_info(process.device)
    args.recompute = needed > free
    return [f'--recompute auto: {args.recompute}, as a step that keeps all activations needs about '
            f'{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free']
