"""Write a student as an ONNX file: encoder and SR network in one graph, for images of any height and width.

    python tools/export_onnx.py --pre_train_ST weights.pt --out student.onnx
    python tools/export_onnx.py --pre_train_ST weights.pt --out student_half.onnx --half

--pre_train_ST: a file or shipped weights, from which family, scale and sizes are read; by default the weights of your
own stage 4, as in a test. All other flags are main.py's. The file is compared with the network by onnxruntime before it
is written. Packages: requirements-extra.txt
"""
import argparse
import copy
import io
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import zoo
from model.tail import Tail, convolve, strips
from option import parse
from photo.network import PhotoNetwork
from photo.upscaler import Upscaler
from process.arguments import Parser
from process.command import command_line
from run.pretrained import find, given
from stage import Source
from store.files import write_bytes
from utility import UserError, derive_seed, expanded, shown

LIMIT = 1e-4  # largest accepted difference from the network, on a data range of 1
HALF_LIMIT = 2e-3  # the same in half precision: half of an 8-bit level
SMALLEST = 2  # pixels: torch.export treats smaller sizes as constants
TRACED = 24, 28  # height, width
CHECKED = (2, 3), (16, 16), (17, 31), (97, 128)
OPSET = 18
DYNAMO = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 7)  # older versions need the older exporter


class FrozenTail(nn.Module):
    """A Tail with frozen weights, without what a graph cannot hold: the cache, and the branch for tiny images."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.fused, self.scale = tail.cached(), tail.scale

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.fused, self.scale, x, *strips(x))   # (B, 3, sh, sw)


def exportable(student: nn.Module, scale: int, rgb_range: int) -> PhotoNetwork:
    """A copy of `student` that can be exported, on images in [0, 1] whose height and width are at least SMALLEST."""
    network = PhotoNetwork(copy.deepcopy(student), scale, rgb_range)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, Tail):
                setattr(module, name, FrozenTail(child))
    return network.eval().requires_grad_(False)


def packages() -> tuple[ModuleType, ModuleType]:
    """(onnx, onnxruntime). Raises UserError if one that the export needs is missing."""
    try:
        import onnx
        import onnxruntime
        if DYNAMO:
            import onnxscript  # noqa: F401 - torch.onnx calls it
    except ImportError as error:
        raise UserError(f'an export needs the package {error.name}: '
                        'pip install -r requirements-extra.txt') from error
    return onnx, onnxruntime


@torch.no_grad()
def graph(student: nn.Module, facts: dict) -> object:
    """The student as an onnx.ModelProto with metadata. facts: its options, see model.zoo."""
    onnx, _ = packages()
    common = {'input_names': ['lq'], 'output_names': ['sr'], 'opset_version': OPSET}
    network, file = exportable(student, facts['scale'], facts['rgb_range']), io.BytesIO()
    lq = torch.rand(1, 3, *TRACED)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about traced constants, which compare() would detect
        if DYNAMO:
            height, width = (torch.export.Dim(name, min=SMALLEST) for name in ('height', 'width'))
            model = torch.onnx.export(network, (lq,), dynamo=True, dynamic_shapes=({2: height, 3: width},),
                                      verbose=False, **common).model_proto
        else:
            free = {'lq': {2: 'height', 3: 'width'}, 'sr': {2: 'sr_height', 3: 'sr_width'}}
            torch.onnx.export(network, (lq,), file, dynamic_axes=free, **common)
            model = onnx.load_from_string(file.getvalue())
    s = facts['scale']
    model.doc_string = f'Blind super-resolution x{s}: the student of {facts["model"].upper()}'
    onnx.helper.set_model_props(model, {
        'input': f'lq: float32 (1, 3, height, width), RGB in [0, 1], height and width at least {SMALLEST}',
        'output': f'sr: float32 (1, 3, {s} height, {s} width), RGB, data range 1; to be clipped to [0, 1]',
        'scale': str(s), 'model': facts['model']})
    onnx.checker.check_model(model)
    return model


def halved(model: object) -> object:
    """The onnx.ModelProto `model` in half precision; input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # packages() has checked for it
    model = convert_float_to_float16(model, keep_io_types=True)
    entry = model.metadata_props.add()
    entry.key, entry.value = 'precision', 'half; input and output are float32'
    return model


@torch.no_grad()
def compare(data: bytes, student: nn.Module, facts: dict) -> Iterator[tuple[int, int, float]]:
    """Yields (height, width, max abs difference from upscale.py with `student`, on a data range of 1) of the ONNX file
    `data` on noise of each size of CHECKED."""
    _, onnxruntime = packages()
    session = onnxruntime.InferenceSession(data, providers=['CPUExecutionProvider'])
    upscaler = Upscaler(student, facts['scale'], facts['rgb_range'], torch.device('cpu'))
    for height, width in CHECKED:
        rng = torch.Generator().manual_seed(derive_seed('export', height, width))
        lq = torch.rand(1, 3, height, width, generator=rng)
        sr, = session.run(['sr'], {'lq': lq.numpy()})                         # (1, 3, sh, sw)
        yield height, width, (torch.from_numpy(sr).clamp(0, 1) - upscaler.tensor(lq)).abs().max().item()


def load(args: Namespace) -> tuple[nn.Module, dict, Path]:
    """The student of `args`, its options, and the default file to write.

    Raises UserError if a flag on the command line contradicts the weights.
    """
    path = find(Source('pre_train_ST', network=None, stage=4), args)
    student, facts, notes = zoo.load_student(given(args, 'pre_train_ST') or path)
    for note in notes:
        print(note)
    for name in facts.keys() & args.given:
        if getattr(args, name) != facts[name]:
            raise UserError(f'--{name} {getattr(args, name)}: {shown(path)} has --{name} {facts[name]}; '
                            f'leave --{name} out, sizes are read from the weights')
    target = Path(path.name if path.is_relative_to(zoo.ZOO) else path)
    return student, facts, target.with_name(target.name.removesuffix('.xz')).with_suffix('.onnx')


def export(args: Namespace, out: str | None, half: bool) -> None:
    """Write the student of `args` to `out` (None: beside its weights, or in the current folder for shipped ones);
    half: in half precision. Raises UserError rather than write a file that differs from the network."""
    packages()
    student, facts, path = load(args)
    path = Path(out) if out else path.with_stem(f'{path.stem}_half') if half else path
    model, limit = graph(student, facts), HALF_LIMIT if half else LIMIT
    data = (halved(model) if half else model).SerializeToString()
    for height, width, difference in compare(data, student, facts):
        print(f'lq {height}x{width}: max abs difference from PyTorch {difference:.1e}')
        if not difference < limit:
            raise UserError(f'{shown(path)}: not written, as on {height}x{width} pixels it differs from the network by '
                            f'{difference:.1e}, more than {limit}; try another version of torch, onnx or onnxruntime')
    write_bytes(path, data)
    print(f'{shown(path)}: {len(data):,} bytes, opset {OPSET}, dynamic height and width')


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    own = Parser(prog='tools/export_onnx.py', description=__doc__,
                 formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    own.add_argument('--out', type=expanded, help='file to write, *.onnx (default: beside the weights)')
    own.add_argument('--half', action='store_true', help='half precision: half the size, for GPUs and NPUs')
    mine, rest = own.parse_known_args(argv)
    if mine.out and Path(mine.out).suffix != '.onnx':
        raise UserError(f'--out {shown(mine.out)}: the name must end in .onnx')
    args = parse(['--stage', '4', *rest, '--test_only'])
    if args.stage != 4:
        raise UserError(f'--stage {args.stage}: only the student can be exported; give --stage 4')
    export(args, mine.out, mine.half)


if __name__ == '__main__':
    sys.exit(main())
