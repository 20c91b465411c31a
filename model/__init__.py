"""FAMILIES, the table of network families. Only this file of model/ reads options."""
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from model import kdsr, mrda, presets
from model.adapt import AdaptedFeatures, adaptable
from model.common import CONVOLUTIONS, Blocks
from model.discriminator import UNetDiscriminator
from model.mln import MLN
from utility import derive_seed


class Family(NamedTuple):
    """A family of networks. teacher, student, mln and cue are builders that take the options.

    mln: the meta-learning network, or None for a family without stages 1 and 2.
    cue: from (options, mln) to the module that computes the input of the teacher's encoder from (lq, up, hr).
    sizes: from ({key: tensor}, role) to the options {name: value} that a network of the family is built from, as read
        from its weights; {} or LookupError for weights of another family. role: see model.shapes.
    feature_l1: weight of the L1 between the distilled features in stage 4's loss.
    presets: {stage: its published options}, for the stages of the family.
    overlap: pixels of lq around a tile that the student's SR network needs so that the tile equals that of the whole
        image; CONVOLUTIONS: the receptive field of its convolutions; None: the whole image, as attention needs.
    """
    teacher: Callable[[Namespace], nn.Module]
    student: Callable[[Namespace], nn.Module]
    cue: Callable[[Namespace, nn.Module | None], nn.Module]
    sizes: Callable[[dict, str], dict]
    presets: dict
    feature_l1: float = 0.0
    mln: Callable[[Namespace], nn.Module] | None = None
    overlap: int | str | None = None


FAMILIES = {
    'mrda': Family(
        mln=lambda args: MLN(args.n_feats, args.scale, args.n_colors),
        teacher=lambda args: mrda.teacher(args.scale, args.n_feats, args.n_blocks, args.rgb_range, args.n_colors),
        student=lambda args: mrda.student(args.scale, args.n_blocks, args.rgb_range, args.n_colors),
        cue=lambda args, mln: AdaptedFeatures(mln, args.test_iter, freeze_tail=args.stage >= 4),
        sizes=mrda.sizes,
        feature_l1=0.1,
        presets=presets.MRDA,
        overlap=CONVOLUTIONS),
    'kdsr': Family(
        teacher=lambda args: kdsr.teacher(args.scale, args.n_feats, args.n_blocks, args.n_resblocks, args.rgb_range,
                                          args.n_colors),
        student=lambda args: kdsr.student(args.scale, args.n_feats, args.n_blocks, args.n_resblocks, args.rgb_range,
                                          args.n_colors),
        cue=lambda args, mln: kdsr.PairCue(args.scale),
        sizes=kdsr.sizes,
        presets=presets.KDSR,
        overlap=CONVOLUTIONS),
}


def make(model: str, role: str, args: Namespace) -> nn.Module:
    """The network for `role` ('mln', 'teacher' or 'student') of the family `model`, built from the options `args`."""
    network = getattr(FAMILIES[model], role)(args)
    if role == 'mln':
        return adaptable(network)
    network.overlap = FAMILIES[model].overlap
    return network


def build(args: Namespace, role: str) -> nn.Module:
    """The network for `role` of --model, initialised from --seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(args.seed, 'initial weights', role))
        network = make(args.model, role, args)
    for chain in (module for module in network.modules() if isinstance(module, Blocks)):
        chain.recompute = args.recompute
        for block in chain.body if args.compile else ():
            block.compile(dynamic=False)  # training has one shape; tests, of many, bypass it: see Blocks
    return network


def build_discriminator(args: Namespace) -> nn.Module:
    """The discriminator of stage 5, initialised from --seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(args.seed, 'initial weights', 'discriminator'))
        return UNetDiscriminator(n_colors=args.n_colors)


def build_cue(args: Namespace) -> tuple[nn.Module, nn.Module | None]:
    """The module that computes the input of the teacher's encoder, and the MLN, None for a family without one."""
    family = FAMILIES[args.model]
    mln = build(args, 'mln') if family.mln else None
    return family.cue(args, mln), mln
