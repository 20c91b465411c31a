"""Training by several processes, as torchrun starts them: what they tell each other, and how they end together."""
import gc
import inspect
import io
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from process.signals import AGAIN, SIGNALS, Stopper
from store.tensors import serialize
from utility import UserError

STUCK = 8     # seconds in which a process that was asked to stop must get out of its wait for the others
LOOK = 0.05   # seconds between two looks at what others have said
SYNC = 'broadcast_buffers'  # in each forward pass, by its name in this version of torch
if 'forward_sync_buffers' in inspect.signature(DistributedDataParallel).parameters:
    SYNC = 'forward_sync_buffers'
LOST = ('gloo', 'nccl', 'connection', 'timed out', 'broken pipe', 'socket', 'tcpstore')  # words of errors of theirs


class ProcessGroup:
    """The processes that train together, this one being `rank` of `size`, and number local_rank on its machine.

    A group of one needs no connection; all its methods are trivial. Only rank 0 tests, saves and logs.
    """

    def __init__(self, rank=0, size=1, local_rank=0):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.is_rank0 = rank == 0
        self.restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0 and size > 1
        self._store = self._guard = None
        self._device = torch.device('cpu')
        self._waits = 0         # numbers the waits by store, which all ranks enter in one order
        self._since = None      # when the wait for others began in which this process is

    @classmethod
    def from_environment(cls):
        """The process group that torchrun describes. Raises UserError if its variables contradict each other."""
        names = 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'
        if not all(name in os.environ for name in names):
            return cls()
        try:
            rank, size, local_rank = (int(os.environ[name]) for name in names)
        except ValueError:
            rank, size, local_rank = -1, 0, 0
        if not 0 <= local_rank <= rank < size:
            raise UserError('RANK, WORLD_SIZE and LOCAL_RANK in the environment do not fit together; '
                            'start by torchrun, or unset them')
        return cls(rank, size, local_rank)

    def open(self, device, timeout):
        """Connect; device: torch.device of --device; timeout: seconds that a wait for others may take.
        Returns this rank's own device. Raises UserError if it has none."""
        if self.size == 1:
            return device
        if device.type == 'mps':
            raise UserError('--device mps works in one process only; start without torchrun, or give --device cpu')
        if device.type == 'cuda':
            if self.local_rank >= torch.cuda.device_count():
                raise UserError(f'{torch.cuda.device_count()} GPUs are present, but torchrun started more processes '
                                'here; lower --nproc_per_node')
            device = torch.device('cuda', self.local_rank)
            torch.cuda.set_device(device)
            os.environ.setdefault('TORCH_NCCL_BLOCKING_WAIT', '1')  # a wait in vain raises instead of aborting
        self._device, self._guard = device, Guard(self)
        limit = timedelta(seconds=timeout)
        with self.waiting():
            store, _, _ = next(rendezvous('env://', timeout=limit))
            attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')  # the store outlives those before
            self._store = dist.PrefixStore(f'attempt {attempt}', store)
            self._store.set_timeout(limit)
            dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', store=self._store, rank=self.rank,
                                    world_size=self.size, timeout=limit)
        return device

    def close(self, orderly):
        """Disconnect. orderly: whether all ranks do so; otherwise some may wait for others that are gone."""
        if self._guard:
            self._guard.close()
            if orderly:
                dist.destroy_process_group()
            elif self.is_rank0 and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
                time.sleep(20 * LOOK)  # the store ends with this process, and the others have yet to look
            self._guard = None

    @contextmanager
    def waiting(self):
        """A context in which this process may have to wait for others."""
        before, self._since = self._since, time.monotonic()
        try:
            yield
        finally:
            self._since = before

    def stuck(self):
        """Whether one wait for others takes too long to be asked to stop."""
        since = self._since
        return since is not None and time.monotonic() - since > STUCK

    def mean(self, values):
        """Means over the ranks, a list of float; values: as many numbers or a tensor (N,)."""
        if self.size == 1:
            return torch.as_tensor(values, dtype=torch.float32).tolist()
        with self.waiting():
            values = torch.as_tensor(values, dtype=torch.float32, device=self._device).clone()
            dist.all_reduce(values)
            return (values / self.size).tolist()

    def share(self, state):
        """Rank 0's `state`, dicts of tensors and basic types or None, on every rank."""
        if self.size == 1:
            return state
        data = bytearray(serialize(state)) if self.is_rank0 else b''
        size = int(self._from_rank0(str(len(data))))
        with self.waiting():
            tensor = torch.frombuffer(data or bytearray(size), dtype=torch.uint8).to(self._device)
            dist.broadcast(tensor, 0)
        if self.is_rank0:
            return state
        return torch.load(io.BytesIO(tensor.cpu().numpy()), map_location='cpu', weights_only=True)

    def wrap(self, stage):
        """`stage` so that gradients are means over the ranks; all ranks get the weights of rank 0. To be done anew when
        other parameters begin to learn."""
        gc.collect()  # an earlier wrapper is part of a cycle, and would take part in each step
        with self.waiting():
            for buffer in stage.buffers():  # older versions leave these to the forward passes
                dist.broadcast(buffer, 0)
            return DistributedDataParallel(stage, [self.local_rank] if self._device.type == 'cuda' else None,
                                           find_unused_parameters=stage.encoder_only, **{SYNC: False})

    def in_turn(self, work):
        """What work() returns; on each machine one rank does it first, for whatever the others may find done then."""
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

    def tick(self, stopper, done=False):
        """Whether rank 0 is done testing. While it tests, it calls this before each image, and the others call it
        repeatedly: so no rank waits too long, and a signal to any rank reaches all."""
        done, stop = self.mean([done, stopper.number is not None])
        self.agree(stopper, stop)
        return done > 0

    def wait_for_test(self, stopper):
        """Wait until rank 0 has tested. Raises Stopped if a signal has come to any rank."""
        while not self.tick(stopper):
            stopper.check()

    def agree(self, stopper, stop):
        """stop: the share of ranks that a signal has asked to stop. They all do so at their next check."""
        if self.size > 1:
            stopper.agree(stop > 0)

    def wait_for_rank0(self):
        """Wait, however long it takes, until rank 0 comes here too."""
        if self.size > 1:
            self._from_rank0()

    def told(self):
        """Whether a rank has told by what error all end."""
        with suppress(RuntimeError):  # the store may be gone
            return self._store is not None and self._store.check(['failed'])
        return False

    def tell(self, text):
        """Whether this rank is to print the error `text`: not if another has printed it. Others that wait for this
        rank without a limit learn of it."""
        if self._store is None:
            return self.is_rank0  # all ranks are given the same command line
        with suppress(RuntimeError):  # the store may be gone
            rank, _, told = self._store.compare_set('failed', '', f'{self.rank} {text}').decode().partition(' ')
            return rank == str(self.rank) or text != told
        return True

    def _from_rank0(self, text='done'):
        """Rank 0's `text`, as soon as it comes here."""
        self._waits += 1
        if self.is_rank0:
            self._store.set(f'{self._waits}', text)
            return text
        self._wait_for(f'{self._waits}')
        return self._store.get(f'{self._waits}').decode()

    def _wait_for(self, key):
        """However long it takes. Raises UserError with what another rank has told instead."""
        while not self._store.check([key]):
            if self._store.check(['failed']):
                raise UserError(self._store.get('failed').decode().partition(' ')[2])
            time.sleep(LOOK)


class Guard:
    """Ends this process if it was asked to stop but waits for others, in which no signal handler of Python runs; asks
    it to stop if the torchrun that started it is gone."""

    def __init__(self, group):
        self._group = group
        self._heard, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)
        self._before = None
        self._launcher = os.getppid() if 'TORCHELASTIC_RUN_ID' in os.environ else None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        asked = False
        self._heard.settimeout(0.2)
        while True:
            with suppress(TimeoutError):
                data = self._heard.recv(64)
                if not data:
                    return
                asked = asked or not SIGNALS.isdisjoint(data)
            if self._launcher not in (None, os.getppid()):
                self._launcher = None
                os.kill(os.getpid(), signal.SIGTERM)
            if asked and self._group.stuck():
                text = f'error: rank {self._group.rank}: asked to stop while it waited for another rank\n'
                os.write(2, text.encode())
                os._exit(AGAIN)

    def close(self):
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
        self._signalled.close()


SINGLE = ProcessGroup()


class Process(NamedTuple):
    """What a session runs on: its device, the signals that stop it, the GPUs or ranks that share each batch."""
    device: torch.device
    stopper: Stopper
    n_gpus: int = 1
    group: ProcessGroup = SINGLE


def lost(error):
    """Whether a RuntimeError says that another rank is gone or silent."""
    return isinstance(error, getattr(dist, 'DistError', ())) or any(word in str(error).lower() for word in LOST)


def report_loss(group, error):
    """One line about it, unless another rank has said why it ends. Returns the exit status."""
    if group.told():
        return 2
    reason = str(error).strip().splitlines()[0][:200]
    print(f'error: rank {group.rank} of {group.size} lost another rank ({reason}); the same command goes on from the '
          'last full state', file=sys.stderr)
    return AGAIN


def leave(status):
    """End this process of a group at once, with `status`. Python's own exit would wait for threads that wait for a lost
    rank; and gloo's threads, which give back the last tensors, abort if they need an interpreter that has ended."""
    try:
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
