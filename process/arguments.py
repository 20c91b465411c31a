"""Command-line arguments: numbers in ranges, True and False, a parser that reports a mistake in one line."""
import argparse
import difflib
from collections.abc import Callable, Iterable
from contextlib import suppress
from re import fullmatch, sub
from typing import NoReturn

from utility import VERSION, UserError

LARGE = 10 ** 9


def checked(kind: Callable, accept: Callable, wanted: str) -> Callable:
    """An argparse type: `kind(text)` if `accept` is true of it, otherwise an error that names what is `wanted`."""
    def convert(text):
        with suppress(ValueError):
            if accept(value := kind(text)):
                return value
        named = text if len(text) <= 40 else f'{text[:37]}...'
        raise argparse.ArgumentTypeError(f'{named!r} is not {wanted}')
    convert.__name__ = kind.__name__
    convert.wanted = wanted  # shown in docs/options.md
    return convert


def within(kind: type, low: float, high: float) -> Callable:
    """An argparse type: a number of `kind`, int or float, from `low` to `high`."""
    return checked(kind, lambda x: low <= x <= high, f'a {"whole " * (kind is int)}number from {low:,} to {high:,}')


def boolean(text: str) -> bool:
    """True or False from a word: published scripts write both `--chop` and `--cpu True`."""
    value = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}.get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not True or False')
    return value


def automatic(text: str) -> bool | str:
    """True, False or 'auto'."""
    return 'auto' if text.lower() == 'auto' else boolean(text)


automatic.wanted = 'True, False, auto'
whole, count = within(int, 0, LARGE), within(int, 1, LARGE)
amount, positive = within(float, 0, LARGE), within(float, 1e-9, LARGE)
run_folder = checked(str, lambda text: fullmatch(r'\.|[^./\\\n][^/\\\n]*', text), 'a folder name in experiment/')
folder_name = checked(str, lambda text: fullmatch(r'[^./\\\n][^/\\\n]*', text), 'a plain folder name')


class Help(argparse.HelpFormatter):
    """One line per flag where its text fits: the kind of its value as a letter or a word, the default in brackets."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, indent_increment=1, max_help_position=25)

    def _get_default_metavar_for_optional(self, action):
        kinds = {'int': 'N', 'float': 'X', 'path': 'PATH', 'str': 'NAME' if action.choices else 'TEXT'}
        return kinds.get(getattr(action.type, '__name__', ''), '')

    def _format_args(self, action, default_metavar):
        return default_metavar if action.nargs in (None, '?') else super()._format_args(action, default_metavar)

    def _get_help_string(self, action):
        text, default = action.help, action.default
        if action.choices and not all(str(choice) in text for choice in action.choices):
            text += ': ' + ', '.join(map(str, action.choices))
        if default is None or default is False or default is argparse.SUPPRESS:
            return text
        return f'{text} [{default:g}]' if isinstance(default, float) else f'{text} [%(default)s]'

    def format_help(self) -> str:
        """The page, without empty lines between the groups of flags."""
        return sub(r'\n\n(?=\w+:\n)', '\n', super().format_help())


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line."""

    def add_version(self) -> None:
        """Add the flag --version, which prints the version and ends the program."""
        self.add_argument('--version', action='version', version=VERSION, help='show the version')

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(' '.join(message.removeprefix('argument ').split())
                        + f'; python {self.prog} --help lists the flags')

    def refuse_unknown(self, given: list[str], known: dict[str, str], others: Iterable[str]) -> None:
        """Raises UserError for the first of `given` that is no flag, and suggests the most similar one of `known`,
        {name in lower case: name}; others: further names that are accepted."""
        for name in given:
            if name not in (*known.values(), *others):
                near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
                hint = f'did you mean --{known[near[0]]}?' if near else f'python {self.prog} --help lists the flags'
                raise UserError(f'no such flag: {"--" + name!r}; {hint}')
