"""Add blocks to a trained student or teacher without changing its function, to start training a larger network.

    python tools/grow_weights.py small.pt large.pt --n_blocks 27
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.growth import grow
from model.zoo import locate, shipped
from process.arguments import Parser, count
from process.command import command_line
from store.tensors import load_weights, save_weights
from utility import UserError, expand, shown


@command_line()
def main(argv: list[str] | None = None) -> None:
    """Read IN, write OUT, print what was written."""
    parser = Parser(prog='tools/grow_weights.py', usage='python tools/grow_weights.py IN OUT --n_blocks N',
                    description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('source', metavar='IN', help='weights of a student or teacher: a file, or a name in zoo/')
    parser.add_argument('target', metavar='OUT', help='file to write')
    parser.add_argument('--n_blocks', type=count, required=True, help='number of blocks of the larger network')
    args = parser.parse_args(argv)
    located = locate(args.source)
    if not located:
        raise UserError(f'{shown(args.source)}: neither a file nor shipped weights; {shipped()}')
    target = expand(args.target)
    if target.exists():
        raise UserError(f'{shown(target)}: exists already; choose another name')
    weights = grow(load_weights(located[0]), args.n_blocks, shown(args.source))
    save_weights(target, weights)
    print(f'{shown(target)}: {args.n_blocks} blocks, same function as {shown(args.source)}; to train it give '
          f'--pre_train_ST (student) or --pre_train_TA (teacher), and --n_blocks {args.n_blocks}')


if __name__ == '__main__':
    sys.exit(main())
