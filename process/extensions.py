"""Extensions: Python files of the user that add entries to the tables (losses, metrics, families of networks)."""
import importlib.util
import sys
import traceback

from process.arguments import Parser
from utility import UserError, expand, shown


def import_extensions(argv: list[str] | None) -> None:
    """Import the files of --extension, before anything is looked up in the tables. Raises UserError."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument('--extension', type=import_files)
    parser.parse_known_args(argv)


def import_files(paths: str) -> None:
    """Import Python files, separated by commas, each once.

    Raises UserError if one cannot be imported.
    """
    for path in (expand(part).resolve() for part in filter(None, paths.split(','))):
        name = str(path)
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None:
            raise UserError(f'--extension {shown(path)}: no such Python file (.py)')
        sys.modules[name] = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # for files beside it; last, so that they hide no module
        try:
            spec.loader.exec_module(sys.modules[name])
        except Exception as error:
            del sys.modules[name]
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
            line = lines[-1] if lines else getattr(error, 'lineno', '?')
            raise UserError(f'--extension {shown(path)}, line {line}: {type(error).__name__}: {error}') from error
