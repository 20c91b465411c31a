"""Start the training of a larger network, or of one for another scale, from trained weights.

    python tools/grow_weights.py small.pt large.pt --n_blocks 27      # blocks added, the function is the same
    python tools/grow_weights.py x4.pt x2.pt --scale 2                # the upsampling tail is initialised anew
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.growth import grow, rescale
from model.zoo import locate, shipped
from process.arguments import Parser, count
from process.command import command_line
from store.tensors import load_weights, save_weights
from utility import UserError, expand, shown


@command_line()
def main(argv: list[str] | None = None) -> None:
    """Read IN, write OUT, print what was written."""
    parser = Parser(prog='tools/grow_weights.py', allow_abbrev=False, description=__doc__.splitlines()[0],
                    usage='python tools/grow_weights.py IN OUT [--n_blocks N] [--scale S]')
    parser.add_argument('source', metavar='IN', help='weights: a file, or a name in zoo/')
    parser.add_argument('target', metavar='OUT', help='file to write')
    parser.add_argument('--n_blocks', type=count, help='number of blocks of the larger network, a student or teacher')
    parser.add_argument('--scale', type=int, choices=(2, 3, 4), help='scale factor, other than that of IN')
    args = parser.parse_args(argv)
    if not args.n_blocks and not args.scale:
        raise UserError('nothing to change; give --n_blocks, --scale or both')
    located = locate(args.source)
    if not located:
        raise UserError(f'{shown(args.source)}: neither a file nor shipped weights; {shipped()}')
    target = expand(args.target)
    if target.exists():
        raise UserError(f'{shown(target)}: exists already; choose another name')
    weights, changes = load_weights(located[0]), []
    if args.n_blocks:
        weights = grow(weights, args.n_blocks, shown(args.source))
        changes.append(f'{args.n_blocks} blocks, same function as {shown(args.source)}')
    if args.scale:
        weights = rescale(weights, args.scale, shown(args.source))
        changes.append(f'x{args.scale}, all weights of {shown(args.source)} but the tail')
    save_weights(target, weights)
    flags = [f'--{name} {value}' for name, value in (('n_blocks', args.n_blocks), ('scale', args.scale)) if value]
    print(f'{shown(target)}: {"; ".join(changes)}; to train it give --pre_train_ST (student) or --pre_train_TA '
          f'(teacher), and {" ".join(flags)}')


if __name__ == '__main__':
    sys.exit(main())
