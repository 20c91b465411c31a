"""The learning rate of every batch of a training, from its options alone."""
import math
from argparse import Namespace
from re import findall, fullmatch

from process.arguments import checked
from utility import UserError

# The options of the learning rate. They may be changed if the rates of the batches already trained stay the same.
OPTIONS = ('lr_sr', 'lr_decay_sr', 'decay_type', 'gamma_sr', 'warmup', 'epochs_sr', 'lr_encoder', 'lr_decay_encoder',
           'gamma_encoder')
decay = checked(str, lambda text: fullmatch(r'step(_[1-9][0-9]{0,6})*|cosine|linear_[0-9]{1,6}', text),
                'step, step_A_B with epochs A, B, cosine, or linear_E with an epoch E')


def learning_rate(args: Namespace, epoch: int, encoder_epochs: int, batch: int = 0) -> float:
    """The learning rate of batch `batch` (from 0) of epoch `epoch` (from 1); the first `encoder_epochs` have their own.

    args: parsed options. --decay_type counts epochs after the encoder-only ones; `cosine` and `linear_E` decay per
    batch, `step` per epoch. --warmup raises the rate linearly over the first batches of the run.
    """
    done = (epoch - 1 - args.start_epoch) * args.test_every + batch
    warm = min(1.0, (done + 1) / args.warmup) if args.warmup else 1.0
    if epoch <= encoder_epochs:
        return warm * args.lr_encoder * args.gamma_encoder ** (epoch // args.lr_decay_encoder)
    return warm * args.lr_sr * _decay(args, epoch - encoder_epochs, batch / args.test_every,
                                      args.epochs_sr - encoder_epochs)


def _decay(args: Namespace, epoch: int, part: float, epochs: int) -> float:
    """The factor of --lr_sr in `epoch` (from 1) of `epochs`, of which the fraction `part` is done."""
    if args.decay_type == 'cosine':
        return (1 + math.cos(math.pi * (epoch - 1 + part) / epochs)) / 2
    numbers = [int(number) for number in findall('[0-9]+', args.decay_type)]
    if args.decay_type.startswith('linear'):
        start = numbers[0]
        return min(1.0, (epochs - (epoch - 1 + part)) / (epochs - start)) if epochs > start else 1.0
    milestones = numbers or range(args.lr_decay_sr, epoch + 1, args.lr_decay_sr)
    return args.gamma_sr ** sum(milestone <= epoch for milestone in milestones)


def check_decay(args: Namespace) -> None:
    """Raises UserError if --decay_type leaves no epoch for a linear decay."""
    linear = fullmatch('linear_([0-9]+)', args.decay_type)
    if linear and int(linear[1]) >= args.epochs_sr - args.epochs_encoder and not args.test_only:
        raise UserError(f'--decay_type {args.decay_type}: no epoch is left for the decay until --epochs_sr '
                        f'{args.epochs_sr}; raise --epochs_sr, or lower {linear[1]}')


def equal_until(old: dict, args: Namespace, encoder_epochs: int, epoch: int, batch: int) -> bool:
    """Whether every batch up to `batch` of the epoch after `epoch` had the learning rate that `args` give.

    old: the options that those batches were trained with; --warmup is 0 if they are older than it.
    """
    before = Namespace(**{**vars(args), 'warmup': 0, **old})
    places = [(done, each) for done in range(1, epoch + 1) for each in range(args.test_every)]
    places += [(epoch + 1, each) for each in range(batch)]
    return all(learning_rate(before, each, encoder_epochs, at) == learning_rate(args, each, encoder_epochs, at)
               for each, at in places)
