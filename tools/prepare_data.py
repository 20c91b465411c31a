"""Download, join and check the public data sets; they are described in docs/data.md.

    python tools/prepare_data.py download                     # DIV2K, Flickr2K, Set5, Set14, B100, Urban100
    python tools/prepare_data.py download Set5 Set14 --dir_data datasets
    python tools/prepare_data.py link                         # DIV2K and Flickr2K as DF2K
    python tools/prepare_data.py check                        # what is there, what is missing, what to do
    python tools/prepare_data.py cache --clean                # remove stale decoded images

Exit status: 0 if the sets are complete, 2 if not, 130 after Ctrl-C; run it again to resume.
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.cache import default_cache
from data.prepare import USUAL, check, download, link, tidy
from data.sources import PARTS
from process.arguments import Parser
from process.command import command_line
from utility import UserError, expand


def build_parser() -> Parser:
    parser = Parser(prog='tools/prepare_data.py', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True, metavar='download|link|check|cache')
    loading = commands.add_parser('download', help='download, verify and unpack sets')
    loading.add_argument('--mirror', default=os.environ.get('MRDA_MIRROR'), metavar='URL',
                         help='URL of a folder with the archives (default: $MRDA_MIRROR); if it has a file SHA256SUMS, '
                              'that replaces the known checksums')
    loading.add_argument('--keep', action='store_true', help='keep the archives in --dir_data')
    loading.add_argument('--again', action='store_true', help='download complete sets, too')
    joining = commands.add_parser('link', help='join DIV2K and Flickr2K in DF2K/HR')
    looking = commands.add_parser('check', help='print what is there, what is missing or damaged, and what to do')
    looking.add_argument('--full', action='store_true', help='decode every image instead of reading its header')
    for command, usual in ((loading, ' '.join(USUAL)), (looking, 'all')):
        command.add_argument('names', nargs='*', metavar='set', help=f'{", ".join(PARTS)} (default: {usual})')
    for command in (loading, joining, looking):
        command.add_argument('--dir_data', default='datasets', metavar='FOLDER', help='default: datasets')
    tidying = commands.add_parser('cache', help='show the cache of decoded images')
    tidying.add_argument('--clean', action='store_true', help='remove entries whose image is gone or has changed')
    tidying.add_argument('--dir_cache', metavar='FOLDER', help='default: mrda in $XDG_CACHE_HOME or ~/.cache')
    return parser


@command_line('; the same command resumes')
def main(argv: list[str] | None = None) -> int | None:
    args = build_parser().parse_args(argv)
    if args.command == 'cache':
        folder = args.dir_cache or default_cache()[0]
        if not folder:
            raise UserError('no writable folder for the cache; give one by --dir_cache')
        return tidy(expand(folder), args.clean)
    root = expand(args.dir_data)
    if args.command == 'download':
        return 0 if download(root, args.names, args.mirror, args.keep, args.again) else 2
    if args.command == 'check':
        return 0 if check(root, args.names, args.full) else 2
    return link(root)


if __name__ == '__main__':
    sys.exit(main())
