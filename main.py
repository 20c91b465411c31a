"""Train or test the stages of MRDA, or upscale your own photos: see README.md and python main.py --help."""
import os
import signal
import sys

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while PyTorch loads, which takes seconds, prints nothing

from argparse import Namespace

from option import parse
from process.command import command_line
from process.group import SINGLE, Process, ProcessGroup, leave, lost, report_loss
from process.signals import Stopper
from run.session import run_stages
from utility import UserError, choose_device, present_gpus


@command_line()
def main(argv: list[str] | None = None) -> int:
    """Returns the exit status of command_line(); 75 for a training that a signal stopped and that can be resumed,
    128 + the signal's number for anything else that a signal stopped."""
    args, group, orderly = None, SINGLE, False
    with Stopper() as stopper:
        try:
            group = ProcessGroup.from_environment()
            args = parse(argv)
            if args.test_only:
                if not group.is_rank0:
                    return 0
                group = SINGLE  # tests run on rank 0 alone
            if args.retired and group.is_rank0:
                print(f'warning: these flags no longer do anything: {", ".join(args.retired)}', file=sys.stderr)
            device = group.open(choose_device(args.device), args.dist_timeout)
            if group.size > 1:
                stopper.join(group.is_rank0)
            n_gpus = present_gpus(args.n_GPUs, device) if group.size == 1 else 1
            run_stages(argv, args, Process(device, stopper, n_gpus, group))
            orderly = True
        except UserError as error:
            if group.publish_error(str(error)):
                print(f'error: {error}', file=sys.stderr)
            return error.status
        except RuntimeError as error:
            if group.size == 1 or not lost(error):
                raise
            return report_loss(group, error)
        except KeyboardInterrupt:
            training = args is not None and not args.test_only
            if group.is_rank0:
                print('\ninterrupted' + how_to_resume(args) * training, file=sys.stderr)
            return stopper.status(training)
        finally:
            group.close(orderly)
    return 0


def how_to_resume(args: Namespace) -> str:
    """How to resume a training that was stopped, for the message."""
    if args.reset or args.resume != -1:
        return '; the same command without --reset and --resume resumes it'
    return '; the same command resumes it'


if __name__ == '__main__':
    status = main()
    if 'RANK' in os.environ:
        leave(status)
    sys.exit(status)
