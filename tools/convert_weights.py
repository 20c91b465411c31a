"""Convert weights between file formats: .pt or .pth, plain or wrapped, .safetensors, and this compressed by xz.

    python tools/convert_weights.py weights.pt weights.safetensors
    python tools/convert_weights.py weights.safetensors wrapped.pth --wrap params_ema
    python tools/convert_weights.py weights.pt small.safetensors.xz --steps 2

The last one rounds to integers, as main.py --qat 2 trains them. A .safetensors file also holds metadata: family, role
and sizes of the network, the version of this project, and what --about adds.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.weights import recognise
from model.zoo import compact, locate, shipped
from process.arguments import Parser, positive
from process.command import command_line
from process.extensions import import_files
from store import safe
from store.tensors import WRAPPERS, load_weights, save_weights
from utility import UserError, expand, shown


def fact(text: str) -> tuple[str, str]:
    """NAME=TEXT as a pair."""
    name, is_pair, value = text.partition('=')
    if not (is_pair and name and value) or name == safe.CHECKSUM:
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=TEXT')
    return name, value


def build_parser() -> Parser:
    parser = Parser(prog='tools/convert_weights.py', usage='python tools/convert_weights.py IN OUT [flags]',
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument('source', metavar='IN', help='weights: a file, or a name in zoo/')
    parser.add_argument('target', metavar='OUT', type=expand,
                        help='file to write: *.pt, *.pth, *.safetensors or *.safetensors.xz')
    parser.add_argument('--wrap', choices=WRAPPERS, help='key under which a .pt or .pth file holds the state dict')
    parser.add_argument('--half', action='store_true', help='convert to half precision')
    parser.add_argument('--steps', type=positive, metavar='S',
                        help='for a .safetensors file: 8 bits a weight, S steps in the standard deviation of a large '
                             'tensor, as --qat S trains them')
    parser.add_argument('--about', type=fact, action='append', default=[], metavar='NAME=TEXT',
                        help='metadata for a .safetensors file, such as licence=CC-BY-4.0; can be repeated')
    parser.add_argument('--extension', metavar='FILE', type=import_files,
                        help='Python file to import first; it adds the network family of your weights')
    return parser


def check(args: argparse.Namespace) -> Path:
    """The file to read. Raises UserError if the flags contradict each other or the files."""
    located, target = locate(args.source), args.target
    if not located:
        raise UserError(f'{shown(args.source)}: neither a file nor shipped weights; {shipped()}')
    if not (target.suffix in ('.pt', '.pth') or safe.is_safe(target)) or target.exists():
        reason = 'exists already' if target.exists() else f'must end in .pt, .pth, {safe.SUFFIX} or {safe.COMPRESSED}'
        raise UserError(f'{shown(target)}: {reason}; choose another name')
    if args.wrap if safe.is_safe(target) else args.about:
        raise UserError(f'--wrap is for .pt and .pth files, --about for {safe.SUFFIX} files')
    if args.steps and (args.half or not safe.is_safe(target)):
        raise UserError(f'--steps is for {safe.SUFFIX} files, and without --half')
    return located[0]


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    """Read IN, write OUT, print what was written."""
    args = build_parser().parse_args(argv)
    source = check(args)
    weights = load_weights(source)
    if args.half:
        weights = {key: tensor.half() for key, tensor in weights.items()}
    about = safe.unpacked(source)[1] if safe.is_safe(source) else {}
    found = recognise(weights)
    about |= found.about() if found else {}
    content = compact(weights, source, args.steps) if args.steps else weights
    save_weights(args.target, content, about | dict(args.about), args.wrap)
    print(f'{shown(args.target)}: {len(weights)} tensors of {f"a {found}" if found else "an unknown family"}')


if __name__ == '__main__':
    sys.exit(main())
