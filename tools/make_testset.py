"""Write the LR images of a test to files, so that any method can be tested on exactly the same pixels.

    python tools/make_testset.py --stage 4 --data_test Set5+Set14 --protocol gaussian8 --dir_out lr/
    python main.py --stage 4 --test_only --data_test Set5+Set14 --protocol gaussian8 --test_lr lr/

The flags are main.py's. One folder per set and degradation: <dir_out>/<set>_<degradation>/<image>.png
"""
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import make_loaders
from data.images import write_rgb
from data.pairs import Degraded, slug
from data.protocol import degradations
from option import parse
from process.arguments import Parser
from process.command import command_line
from report.evaluation import to_float, to_uint8
from stages import STAGES
from utility import UserError


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    own = Parser(prog='tools/make_testset.py', description=__doc__, formatter_class=RawDescriptionHelpFormatter,
                 usage='python tools/make_testset.py --stage N --dir_out FOLDER [flags of main.py]', allow_abbrev=False)
    _, flags = own.parse_known_args(argv)
    args = parse([*flags, '--test_only'])
    if not args.dir_out:
        raise UserError('--dir_out is missing; give the folder to write to')
    write(args)


def write(args: Namespace) -> None:
    """Write every image of the test sets under every degradation of the protocol."""
    stage = STAGES[args.stage](args)
    pair = Degraded(args.seed, args.rgb_range)
    for testset in make_loaders(args)[1]:
        for image, hr8 in testset:
            hr = to_float(hr8, args.rgb_range, torch.device('cpu'), args.n_colors)
            for degradation in degradations(args.protocol, stage.test_degradation):
                lq, _ = pair(testset.name, image, hr, degradation)
                write_rgb(Path(args.dir_out) / slug(testset.name, degradation) / f'{image}.png',
                          to_uint8(lq, args.rgb_range))
        print(f'{testset.name}: {len(testset)} images under {args.protocol} in {args.dir_out}')


if __name__ == '__main__':
    sys.exit(main())
