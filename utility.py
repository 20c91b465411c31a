"""Small things that every room uses: the error meant for people, stateless randomness, the device, 8-bit rounding."""
import argparse
import errno
import hashlib
import importlib.util
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import TextIO

import torch
from torch import nn

ROUNDED = {'single': None, 'bf16': torch.bfloat16, 'half': torch.float16}  # --precision: what products are rounded to

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a file


class UserError(Exception):
    """A mistake in what the user gave. Its text is one line: what was wrong, in which file or flag, what to do."""
    status = 2  # of the program that it ends


class Unavailable(UserError):
    """Something outside has failed that may work later, such as a disk that does not answer: run it again."""
    status = 75  # EX_TEMPFAIL of sysexits.h, as of a training that a signal stopped


class Stream:
    """A standard stream that ends no program: once its disk is full or its terminal gone, or where it was closed from
    the start, what is written to it is dropped. `error` is the first failure to write, or None.

    A reader that has gone, as `head` does, raises BrokenPipeError unless `silent`.
    """

    def __init__(self, stream: TextIO | None, silent: bool = False):
        self._stream, self._silent = stream or _nowhere(), silent
        self.error: Exception | None = None
        if hasattr(self._stream, 'reconfigure'):
            self._stream.reconfigure(errors='backslashreplace')  # a terminal may not know what a file is called

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`, or drop it; returns its length."""
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        self._attempt(self._stream.flush)

    def _attempt(self, call, *what):
        try:
            call(*what)
        except (OSError, ValueError) as error:  # full, or gone; closed
            nowhere = _nowhere()
            try:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what is buffered goes there too
            except (OSError, ValueError):  # it has no number: closed, or no file
                self._stream = nowhere
            if isinstance(error, BrokenPipeError) and not self._silent:
                raise
            self.error = self.error or error


def _nowhere():
    return open(os.devnull, 'w', encoding='utf-8')


def _occupy_standard_streams():
    """Open a standard stream that is closed on nothing: else the next file that is opened would become it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free


def command_line(afterwards: str = '') -> Callable:
    """A decorator for the main(argv=None) of a program, which then returns its exit status: what main returns or 0;
    2 if something given was wrong or the system refused something (a full disk, a folder taken away, memory), told in
    one line; 75 if it may work later; 1 if it ended since nobody reads the output any longer; 130 after Ctrl-C.

    afterwards: how to go on after Ctrl-C, in words.
    """
    def decorate(main):
        @wraps(main)
        def guarded(argv=None):
            _occupy_standard_streams()
            before, stdout = (sys.stdout, sys.stderr), Stream(sys.stdout)
            sys.stdout, sys.stderr = stdout, Stream(sys.stderr, silent=True)
            if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as programs set it while PyTorch loads
                with suppress(ValueError):  # not in the main thread: then as it is
                    signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                return _finish(_status(main, argv, afterwards), stdout)
            except SystemExit as end:  # after --help
                if _finish(end.code, stdout) == end.code:
                    raise
                return 2
            finally:
                sys.stdout, sys.stderr = before
        return guarded
    return decorate


def _status(main, argv, afterwards):
    """The exit status of main(argv); what it raises is told in one line."""
    try:
        return main(argv) or 0
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return error.status
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f'error: {error.filename or "input or output"}: {error.strerror or error}', file=sys.stderr)
    except KeyboardInterrupt:
        print(f'\ninterrupted{afterwards}', file=sys.stderr)
        return 130
    except Exception as error:
        if out_of_memory(error):
            print('error: memory runs out; take a smaller network, batch or image, or end other programs',
                  file=sys.stderr)
        else:
            traceback.print_exc()
            text = ' '.join(str(error).split())[:200]
            print(f'error: {type(error).__name__}: {text}; a fault of the program, or of an extension: the lines above '
                  'say where', file=sys.stderr)
    return 2


def _finish(status, stdout):
    """Write out what was printed; `status`, but 2 if a full disk did not take it."""
    with suppress(BrokenPipeError):
        stdout.flush()
    if getattr(stdout.error, 'errno', None) in FULL:
        print(f'error: standard output: {stdout.error.strerror}; what was printed is not complete', file=sys.stderr)
        return status or 2
    return status


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or here."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def stderr_lines() -> Iterator[list[str]]:
    """A list that holds, after the block, the lines that C libraries wrote to standard error in it; none is shown."""
    lines = []
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield lines
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors='replace').splitlines()


def shown(path: str | Path) -> str:
    """`path` as text that any terminal can print on one line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def import_files(paths: str) -> None:
    """Import Python files, joined by commas, each once, for what they register: losses, families of networks.

    Raises UserError for one that cannot be imported.
    """
    for path in (expand(part).resolve() for part in filter(None, paths.split(','))):
        name = str(path)
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None:
            raise UserError(f'--extension {shown(path)}: no such Python file (.py)')
        sys.modules[name] = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # for files beside it; last, so that none of them hides a module
        try:
            spec.loader.exec_module(sys.modules[name])
        except Exception as error:
            del sys.modules[name]
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
            line = lines[-1] if lines else getattr(error, 'lineno', '?')
            raise UserError(f'--extension {shown(path)}, line {line}: {type(error).__name__}: {error}') from error


def expand(path: str | Path) -> Path:
    """`path` as a Path, ~ and ~user replaced by the home folder. Raises UserError if nobody knows that folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f'{shown(path)}: no such user or home folder; write the path without ~') from error


def checked(kind: Callable, accept: Callable, wanted: str) -> Callable:
    """An argparse type: `kind(text)` where `accept` likes it, otherwise an error that says what was `wanted`."""
    def convert(text):
        with suppress(ValueError):
            if accept(value := kind(text)):
                return value
        named = text if len(text) <= 40 else f'{text[:37]}...'
        raise argparse.ArgumentTypeError(f'{named!r} is not {wanted}')
    convert.__name__ = kind.__name__  # what --help shows as the value
    return convert


def within(kind: type, low: float, high: float) -> Callable:
    """An argparse type: a number of `kind`, int or float, from `low` to `high`."""
    return checked(kind, lambda x: low <= x <= high, f'a {"whole " * (kind is int)}number from {low:,} to {high:,}')


def boolean(text: str) -> bool:
    """True or False from a word: the published scripts write both `--chop` and `--cpu True`."""
    value = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}.get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not True or False')
    return value


def expanded(text: str) -> str:
    """An argparse type: a path, ~ expanded here since shells do so at the start of a word alone, not after --flag=."""
    return str(expand(text)) if text.startswith('~') else text


expanded.__name__ = 'path'  # what --help shows as the value


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else.

    No random state is kept anywhere: each draw comes from a generator seeded by what it is for, such as
    (seed, 'crop', epoch, position). So a run can stop anywhere and go on bit for bit.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def generator(device: torch.device | str, *parts: object) -> torch.Generator:
    """A torch.Generator on `device`, seeded by `parts` as derive_seed does."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def quantize(image: torch.Tensor, rgb_range: int = 1) -> torch.Tensor:
    """Round to 8 bits, as writing the image to a file would: values in [0, rgb_range] on a grid of 255 steps."""
    return quantize_(image.clone(), rgb_range)


def quantize_(image: torch.Tensor, rgb_range: int = 1) -> torch.Tensor:
    """The same in place: taking memory anew costs more than the rounding."""
    return image.mul_(255 / rgb_range).round_().clamp_(0, 255).mul_(rgb_range / 255)


def memory_format(device: torch.device, rounded: torch.dtype | None = None) -> torch.memory_format:
    """How feature maps are best laid out: channels last on the CPU, as measured, and where tensor cores compute on what
    is rounded to 16 bits; planes otherwise."""
    last = device.type == 'cpu' or (device.type == 'cuda' and rounded)
    return torch.channels_last if last else torch.contiguous_format


def place(network: nn.Module, device: torch.device, rounded: torch.dtype | None = None) -> nn.Module:
    """Move `network` to `device`, into the memory format that is fastest there. Returns it.

    Raises UserError for a GPU that has no bfloat16.
    """
    if (device.type, rounded) == ('cuda', torch.bfloat16) and torch.cuda.get_device_capability(device)[0] < 8:
        raise UserError('--precision bf16: this GPU is older than bfloat16; use --precision half')
    return network.to(device, memory_format=memory_format(device, rounded))


def arithmetic(device: torch.device, rounded: torch.dtype | None = None) -> AbstractContextManager:
    """A context in which convolutions and matrix products are computed as --precision says, by its entry in ROUNDED."""
    if not rounded:
        return nullcontext()
    return torch.autocast(device.type, rounded, cache_enabled=False)  # no weight is used twice


def choose_device(name: str) -> torch.device:
    """torch.device for --device auto, cpu, cuda or mps.

    Raises UserError if the named one is not there; auto takes the first of cuda, mps, cpu that is.
    """
    present = {'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available(), 'cpu': True}
    if name == 'auto':
        name = next(device for device, there in present.items() if there)
    if not present.get(name):
        raise UserError(f'--device {name}: this machine offers none to PyTorch; use --device auto or cpu')
    return torch.device(name)


def present_gpus(wanted: int, device: torch.device) -> int:
    """How many replicas there will be: fewer than --n_GPUs where there are fewer GPUs, 1 where there are none."""
    present = torch.cuda.device_count() if device.type == 'cuda' else 1
    if device.type == 'cuda' and wanted > present:
        print(f'--n_GPUs {wanted}: {present} present, so {present} it is')
    return min(wanted, present)
