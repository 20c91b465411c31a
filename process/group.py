"""The process group of a distributed training started by torchrun: what the ranks exchange, and how they stop."""
import gc
import inspect
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from process.signals import AGAIN, Stopper
from process.watchdog import Watchdog
from store.tensors import serialize
from utility import UserError

STUCK = 8     # seconds that a process that was asked to stop may still wait for the other ranks
LOOK = 0.05   # seconds between two polls of the store that all ranks share
SYNC = 'broadcast_buffers'  # in each forward pass; newer versions of torch have another name for it
if 'forward_sync_buffers' in inspect.signature(DistributedDataParallel).parameters:
    SYNC = 'forward_sync_buffers'
LOST = ('gloo', 'nccl', 'connection', 'timed out', 'broken pipe', 'socket', 'tcpstore')  # in errors about a lost rank
T = TypeVar('T')


class ProcessGroup:
    """The ranks of a training: this one is `rank` of `size`, and number local_rank on its machine.

    A group of one rank needs no connection; its methods are trivial. Only rank 0 tests, saves and logs.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.is_rank0 = rank == 0
        self.restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0 and size > 1
        self._store = self._watchdog = None
        self._device = torch.device('cpu')
        self._waits = 0         # numbers the waits on the store, which all ranks enter in the same order
        self._since = None      # when this process began to wait for other ranks; None while it does not

    @classmethod
    def from_environment(cls) -> 'ProcessGroup':
        """The process group that torchrun describes. Raises UserError if its variables contradict each other."""
        names = 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'
        if not all(name in os.environ for name in names):
            return cls()
        try:
            rank, size, local_rank = (int(os.environ[name]) for name in names)
        except ValueError:
            rank, size, local_rank = -1, 0, 0
        if not 0 <= local_rank <= rank < size:
            raise UserError('RANK, WORLD_SIZE and LOCAL_RANK in the environment contradict each other; '
                            'start with torchrun, or unset them')
        return cls(rank, size, local_rank)

    def open(self, device: torch.device, timeout: float) -> torch.device:
        """Connect, and return this rank's own device. device: of --device; timeout: of every wait for other ranks, in
        seconds. Raises UserError if there is no device for this rank."""
        if self.size == 1:
            return device
        if device.type == 'mps':
            raise UserError('--device mps supports one process only; start without torchrun, or give --device cpu')
        if device.type == 'cuda':
            if self.local_rank >= torch.cuda.device_count():
                raise UserError(f'{torch.cuda.device_count()} GPUs are present, but torchrun started more processes; '
                                'lower --nproc_per_node')
            device = torch.device('cuda', self.local_rank)
            torch.cuda.set_device(device)
            os.environ.setdefault('TORCH_NCCL_BLOCKING_WAIT', '1')  # a timeout raises instead of aborting
        self._device, self._watchdog = device, Watchdog(self.rank, self.stuck)
        limit = timedelta(seconds=timeout)
        with self.waiting():
            store, _, _ = next(rendezvous('env://', timeout=limit))
            attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')  # the store outlives earlier attempts
            self._store = dist.PrefixStore(f'attempt {attempt}', store)
            self._store.set_timeout(limit)
            dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', store=self._store, rank=self.rank,
                                    world_size=self.size, timeout=limit)
        return device

    def close(self, orderly: bool) -> None:
        """Disconnect. orderly: whether all ranks do so; otherwise some may be waiting for lost ones."""
        if self._watchdog:
            self._watchdog.close()
            if orderly:
                dist.destroy_process_group()
            elif self.is_rank0 and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
                time.sleep(20 * LOOK)  # the store ends with this process; let the other ranks read the error first
            self._watchdog = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context in which this process may have to wait for other ranks."""
        before, self._since = self._since, time.monotonic()
        try:
            yield
        finally:
            self._since = before

    def stuck(self) -> bool:
        """Whether this process has waited for other ranks longer than STUCK."""
        since = self._since
        return since is not None and time.monotonic() - since > STUCK

    def mean(self, values: Sequence[float] | torch.Tensor) -> list[float]:
        """Means over the ranks; values: a number each or a tensor (N,)."""
        if self.size == 1:
            return torch.as_tensor(values, dtype=torch.float32).tolist()
        with self.waiting():
            return self.average(torch.as_tensor(values, dtype=torch.float32, device=self._device)).tolist()

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """The same of float32 values (N,) on this rank's device, where the result stays."""
        if self.size == 1:
            return values
        with self.waiting():
            values = values.clone()
            dist.all_reduce(values)
            return values / self.size

    def broadcast(self, content: dict | None) -> dict | None:
        """Rank 0's `content`, a dict of tensors, basic types and dicts, or None, on every rank."""
        if self.size == 1:
            return content
        data = bytearray(serialize(content)) if self.is_rank0 else b''
        size = int(self._from_rank0(str(len(data))))
        with self.waiting():
            tensor = torch.frombuffer(data or bytearray(size), dtype=torch.uint8).to(self._device)
            dist.broadcast(tensor, 0)
        if self.is_rank0:
            return content
        return torch.load(io.BytesIO(tensor.cpu().numpy()), map_location='cpu', weights_only=True)

    def wrap(self, stage: nn.Module) -> DistributedDataParallel:
        """`stage` in DistributedDataParallel: gradients are averaged over the ranks, weights broadcast from rank 0.
        To be wrapped again when other parameters are trained."""
        gc.collect()  # an earlier wrapper is part of a reference cycle, and its hooks would run in each step
        with self.waiting():
            for buffer in stage.buffers():  # older versions of torch do so in each forward pass only
                dist.broadcast(buffer, 0)
            return DistributedDataParallel(stage, [self.local_rank] if self._device.type == 'cuda' else None,
                                           find_unused_parameters=stage.encoder_only, **{SYNC: False})

    def in_turn(self, work: Callable[[], T]) -> T:
        """What work() returns. Local rank 0 of each machine runs it first, so that the others find its files."""
        if self.size == 1:
            return work()
        self._waits += 1
        key = f'{self._waits} {os.environ.get("GROUP_RANK", self.rank - self.local_rank)}'
        if self.local_rank:
            self._wait_for(key)
            return work()
        done = work()
        self._store.set(key, 'done')
        return done

    def tick(self, stopper: Stopper, done: bool = False) -> bool:
        """Whether rank 0 is done testing. Rank 0 calls this before each test image, the other ranks repeatedly: so no
        wait reaches the timeout, and a signal to any rank reaches all."""
        done, stop = self.mean([done, stopper.number is not None])
        self.agree(stopper, stop)
        return done > 0

    def wait_for_test(self, stopper: Stopper) -> None:
        """Wait until rank 0 has tested. Raises Stopped if any rank has received a signal."""
        while not self.tick(stopper):
            stopper.check()

    def agree(self, stopper: Stopper, stop: float) -> None:
        """Make all ranks stop at their next check if any was asked to stop. stop: fraction of ranks that were asked."""
        if self.size > 1:
            stopper.agree(stop > 0)

    def wait_for_rank0(self) -> None:
        """Wait without a timeout until rank 0 calls this too."""
        if self.size > 1:
            self._from_rank0()

    def error_published(self) -> bool:
        """Whether a rank has published the error that ends all ranks."""
        with suppress(RuntimeError):  # the store may be gone
            return self._store is not None and self._store.check(['failed'])
        return False

    def publish_error(self, text: str) -> bool:
        """Publish the error `text`, so that ranks that wait for this one end too. Returns whether this rank should
        print it: not if another rank has published the same."""
        if self._store is None:
            return self.is_rank0  # all ranks have the same command line
        with suppress(RuntimeError):  # the store may be gone
            rank, _, first = self._store.compare_set('failed', '', f'{self.rank} {text}').decode().partition(' ')
            return rank == str(self.rank) or text != first
        return True

    def _from_rank0(self, text: str = 'done') -> str:
        """Rank 0's `text`, as soon as it calls this."""
        self._waits += 1
        if self.is_rank0:
            self._store.set(f'{self._waits}', text)
            return text
        self._wait_for(f'{self._waits}')
        return self._store.get(f'{self._waits}').decode()

    def _wait_for(self, key: str) -> None:
        """Wait for `key` in the store without a timeout. Raises UserError with the error of another rank."""
        while not self._store.check([key]):
            if self._store.check(['failed']):
                raise UserError(self._store.get('failed').decode().partition(' ')[2])
            time.sleep(LOOK)


SINGLE = ProcessGroup()


class Process(NamedTuple):
    """What a session runs on: its device, the stop signals, the GPUs or the ranks that share each batch."""
    device: torch.device
    stopper: Stopper
    n_gpus: int = 1
    group: ProcessGroup = SINGLE


def lost(error: RuntimeError) -> bool:
    """Whether a RuntimeError is about another rank that has ended or does not answer."""
    return isinstance(error, getattr(dist, 'DistError', ())) or any(word in str(error).lower() for word in LOST)


def report_loss(group: ProcessGroup, error: RuntimeError) -> int:
    """Print one line about a lost rank, unless a rank has published why it ended. Returns the exit status."""
    if group.error_published():
        return 2
    reason = str(error).strip().splitlines()[0][:200]
    print(f'error: rank {group.rank} of {group.size} lost another rank ({reason}); the same command resumes from '
          'the last checkpoint', file=sys.stderr)
    return AGAIN


def leave(status: int) -> NoReturn:
    """End this rank at once with exit status `status`. Python's own exit would wait for threads that wait for a lost
    rank, and gloo's threads abort if they release tensors after the interpreter has ended."""
    try:
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
