"""The table of networks. Only this file of model/ reads options."""
from collections.abc import Callable
from typing import NamedTuple

import torch

from model import kdsr, mrda, presets
from model.adapt import AdaptedFeatures, adaptable
from model.common import Blocks
from model.mln import MLN
from utility import derive_seed


class Family(NamedTuple):
    """What tells one family of networks from another; the first four make something from the options.

    mln: the meta-learning network, or None for a family without stages 1 and 2.
    cue: from (options, mln) to what gives the teacher's encoder its input from (lq, up, hr).
    feature_l1: weight of the L1 between the distilled features in stage 4's loss.
    presets: {stage: its published options}, for the stages that the family has.
    """
    mln: Callable | None
    teacher: Callable
    student: Callable
    cue: Callable
    feature_l1: float
    presets: dict


FAMILIES = {
    'mrda': Family(
        mln=lambda args: MLN(args.n_feats, args.scale),
        teacher=lambda args: mrda.teacher(args.scale, args.n_feats, args.n_blocks, args.rgb_range),
        student=lambda args: mrda.student(args.scale, args.n_blocks, args.rgb_range),
        cue=lambda args, mln: AdaptedFeatures(mln, args.test_iter, freeze_tail=args.stage == 4),
        feature_l1=0.1,
        presets=presets.MRDA),
    'kdsr': Family(
        mln=None,
        teacher=lambda args: kdsr.teacher(args.scale, args.n_feats, args.n_blocks, args.n_resblocks, args.rgb_range),
        student=lambda args: kdsr.student(args.scale, args.n_feats, args.n_blocks, args.n_resblocks, args.rgb_range),
        cue=lambda args, mln: kdsr.PairCue(args.scale),
        feature_l1=0.0,
        presets=presets.KDSR),
}


def build(args, role):
    """The network for `role` ('mln', 'teacher' or 'student') of --model, initialised from --seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(args.seed, 'initial weights', role))
        network = getattr(FAMILIES[args.model], role)(args)
    if role == 'mln':
        adaptable(network)
    for chain in (module for module in network.modules() if isinstance(module, Blocks)):
        chain.recompute = args.recompute
        for block in chain.body if args.compile else ():
            block.compile(dynamic=False)  # training has one shape; tests, of many, go round it: see Blocks
    return network


def build_cue(args):
    """What the teacher looks at, and with it the MLN of a family that has one (None otherwise)."""
    family = FAMILIES[args.model]
    mln = build(args, 'mln') if family.mln else None
    return family.cue(args, mln), mln
