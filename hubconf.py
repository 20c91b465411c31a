"""Students for torch.hub: modules that map RGB images (B, 3, h, w) in [0, 1] to (B, 3, sh, sw). See docs/hub.md.

    model = torch.hub.load('.', 'mrda_s_x4_iso', source='local')

Other projects also have modules named `model`, `data` or `utility`. To avoid conflicts, the modules of this project are
imported here as submodules of _PACKAGE. torch.hub lists the names without an underscore.
"""
import builtins as _builtins
import hashlib as _hashlib
import importlib as _importlib
import json as _json
import sys as _sys
from collections.abc import Callable as _Callable
from importlib.machinery import ModuleSpec as _ModuleSpec
from importlib.machinery import PathFinder as _PathFinder
from importlib.machinery import SourceFileLoader as _SourceFileLoader
from importlib.util import module_from_spec as _module_from_spec
from importlib.util import spec_from_loader as _spec_from_loader
from pathlib import Path as _Path

from torch.nn import Module as _Module

dependencies = ['torch', 'numpy', 'scipy', 'cv2']
_ROOT = _Path(__file__).resolve().parent
_MODULES = {path.stem for path in _ROOT.iterdir() if path.suffix == '.py' or (path / '__init__.py').is_file()}
_PACKAGE = f'mrda_{_hashlib.sha256(str(_ROOT).encode()).hexdigest()[:8]}'  # differs between copies of the project


def _import(name, scope=None, own=None, names=(), level=0):
    """The `import` statement in the project's files: its own modules are imported from _PACKAGE."""
    if level or name.split('.')[0] not in _MODULES:
        return _builtins.__import__(name, scope, own, names, level)
    module = _importlib.import_module(f'{_PACKAGE}.{name}')
    for each in names or ():
        if hasattr(module, '__path__') and not hasattr(module, each):
            _importlib.import_module(f'{module.__name__}.{each}')
    return module if names else _sys.modules[f'{_PACKAGE}.{name.split(".")[0]}']


class _Loader(_SourceFileLoader):
    """Runs a file of the project with _import instead of Python's __import__."""

    def exec_module(self, module):
        module.__builtins__ = {**vars(_builtins), '__import__': _import}
        super().exec_module(module)


class _Finder:
    """Finds the modules of _PACKAGE, for sys.meta_path."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> _ModuleSpec | None:
        spec = _PathFinder.find_spec(name, path) if name.startswith(f'{_PACKAGE}.') else None
        if spec and isinstance(spec.loader, _SourceFileLoader):
            spec.loader = _Loader(name, spec.origin)
        return spec


if _PACKAGE not in _sys.modules:
    _sys.modules[_PACKAGE] = _module_from_spec(_spec_from_loader(_PACKAGE, None, is_package=True))
    _sys.modules[_PACKAGE].__path__ = [str(_ROOT)]
    _sys.meta_path.insert(0, _Finder)


def student(weights: str) -> _Module:
    """A pre-trained student, frozen and in eval mode. weights: shipped weights by name, or a file written by stage 4;
    family, scale and sizes are read from it."""
    network, facts, _ = _import('model.zoo', names=('load_student',)).load_student(weights)
    return _on_photos(network, facts['scale'], facts['rgb_range'])


def mrda_student(scale: int = 4, n_blocks: int = 27, n_colors: int = 3) -> _Module:
    """MRDA's student with random weights, to be trained. n_colors: 3 for RGB, 1 for luma."""
    return _on_photos(_import('model.mrda', names=('student',)).student(scale, n_blocks, 1, n_colors), scale)


def kdsr_student(scale: int = 4, n_feats: int = 64, n_blocks: int = 53, n_resblocks: int = 9,
                 n_colors: int = 3) -> _Module:
    """KDSR's student, of size M, with random weights, to be trained; size L: 128, 28, 5."""
    sizes = scale, n_feats, n_blocks, n_resblocks, 1, n_colors
    return _on_photos(_import('model.kdsr', names=('student',)).student(*sizes), scale)


def _on_photos(network: _Module, scale: int, rgb_range: int = 1) -> _Module:
    return _import('photo.network', names=('PhotoNetwork',)).PhotoNetwork(network, scale, rgb_range)


def _shipped(name: str, facts: dict) -> _Callable:
    """The torch.hub entry of the shipped weights `name`."""
    def entry(pretrained: bool = True) -> _Module:
        if pretrained:
            return student(name)
        found = _import('model.weights', names=('Found',)).Found(facts['model'], 'student', facts)
        return _on_photos(found.build(), facts['scale'], facts['rgb_range'])
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f'Shipped weights of {facts["model"].upper()}, x{facts["scale"]}: see zoo/{name}.md.'
    return entry


globals().update({_name: _shipped(_name, _facts) for _name, _facts in
                  _json.loads((_ROOT / 'zoo' / 'index.json').read_text(encoding='utf-8')).items()})
