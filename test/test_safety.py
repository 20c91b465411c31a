"""A damaged or malicious file is refused with an error, or gives exactly what was written."""
import ast
import builtins
import hashlib
import io
import os
import pickle
import random
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import MAX_PIXELS, read_rgb
from model.mln import MLN
from photo.image import read_photo
from store import tensors
from store.tensors import load_checkpoint, load_weights, save_checkpoint, save_weights
from utility import UserError

ROOT = Path(__file__).resolve().parent.parent
RECORDS = (b'PK\3\4', b'PK\1\2', b'PK\5\6', b'PK\6\6', b'PK\6\7', b'PK\7\x08')  # every kind of header in a zip file
PICKLING = {'pickle', '_pickle', 'cPickle', 'cloudpickle', 'marshal', 'shelve', 'joblib', 'dill'}


def refused(load, path):
    """The text of the UserError of load(path), None if there is none; any other exception fails the test."""
    try:
        load(path)
    except UserError as error:
        assert '\n' not in str(error) and path.name in str(error)
        return str(error)
    return None


# ---- damage ----

def flipped(data, rng):
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1:]


def zeroed(data, rng):
    length = min(2 ** rng.randint(6, 12), len(data) // 2)
    place = rng.randrange(len(data) - length)
    return data[:place] + bytes(length) + data[place + length:]


def cut(data, rng):
    return data[:rng.randrange(len(data))]


def widened(data, rng):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randint(1, 64)) + data[place:]


def headed(data, rng):
    """Change a byte in one of the headers of a zip file, which have no checksum."""
    kind = rng.choice([kind for kind in RECORDS if kind in data])
    starts = [place for place in range(len(data)) if data.startswith(kind, place)]
    place = min(rng.choice(starts) + rng.randrange(64), len(data) - 1)
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1:]


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """(bytes of a small weights file with records of several sizes, its tensors)."""
    path = tmp_path_factory.mktemp('weights') / 'w.pt'
    save_weights(path, MLN(4, 2))
    return path.read_bytes(), load_weights(path)


@pytest.mark.parametrize('mutate, count', [(flipped, 1000), (zeroed, 500), (cut, 300), (widened, 400), (headed, 800)])
def test_damaged_weights_are_refused_or_loaded_exactly(weights, tmp_path, mutate, count):
    data, wanted = weights
    path, rng, refusals = tmp_path / 'w.pt', random.Random(mutate.__name__), 0
    for _ in range(count):
        path.write_bytes(mutate(data, rng))
        try:
            found = load_weights(path)
        except UserError as error:
            assert '\n' not in str(error) and 'w.pt' in str(error)
            refusals += 1
            continue
        assert found.keys() == wanted.keys()
        assert all(found[key].dtype == wanted[key].dtype and torch.equal(found[key], wanted[key]) for key in wanted)
    assert refusals > count // 10


def test_a_flipped_bit_of_a_tensor_is_found(weights, tmp_path):
    data, wanted = weights
    place = data.index(wanted['body.0.bias'].numpy().tobytes())
    path = tmp_path / 'w.pt'
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
    with pytest.raises(UserError, match=r'w\.pt: damaged \(checksum mismatch\)'):
        load_weights(path)


@pytest.mark.parametrize('mutate, count', [(flipped, 1000), (zeroed, 300), (cut, 300)])
def test_damaged_checkpoints_are_refused(tmp_path, mutate, count):
    check_rot_is_found(tmp_path / 'state.pt', mutate, count)


def test_missing_checksum_is_detected_by_this_test(tmp_path, monkeypatch):
    same = SimpleNamespace(digest=lambda: bytes(tensors.DIGEST))
    monkeypatch.setattr(tensors.hashlib, 'sha256', lambda payload: same)
    with pytest.raises(AssertionError, match='not detected by the checksum'):
        check_rot_is_found(tmp_path / 'state.pt', flipped, 100)


def check_rot_is_found(path, mutate, count):
    """Each of `count` mutated checkpoints is refused because of its checksum."""
    rng = random.Random(mutate.__name__)
    save_checkpoint(path, {'epoch': 3, 'model': MLN(4, 2).state_dict(), 'history': {'loss': [0.5]}})
    data = path.read_bytes()
    for _ in range(count):
        bad = mutate(data, rng)
        if bad != data:
            path.write_bytes(bad)
            assert 'checksum mismatch' in (refused(load_checkpoint, path) or ''), 'not detected by the checksum'


def test_zip_record_marked_as_a_folder_is_refused(weights, tmp_path):
    """zipfile reads such a record, torch leaves its memory uninitialised."""
    data = bytearray(weights[0])
    starts = [place for place in range(len(data)) if data.startswith(b'PK\1\2', place)]
    path = tmp_path / 'w.pt'
    for start in starts:
        data[start + 38] ^= 0x10
        path.write_bytes(data)
        assert refused(load_weights, path)
        data[start + 38] ^= 0x10


# ---- malicious files ----

class Call:
    """Pickled as the call of a function, which unpickling carries out."""
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CALLS = {'os.system': Call(os.system, 'touch executed'),
         'eval': Call(builtins.eval, "open('executed', 'w')"),
         'exec': Call(builtins.exec, "open('executed', 'w')"),
         'open': Call(builtins.open, 'executed', 'w')}


def zipped(records):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, data in records.items():
            archive.writestr(f'archive/{name}', data)
    return buffer.getvalue()


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def signed(payload):
    """A checkpoint file with any content and a correct checksum."""
    return payload + hashlib.sha256(payload).digest()


@pytest.mark.parametrize('form', ['pickle', 'old', 'zip', 'inside'])
@pytest.mark.parametrize('name', CALLS)
def test_malicious_pickles_are_not_executed(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    data = {'pickle': lambda: pickle.dumps(CALLS[name]),
            'old': lambda: saved(CALLS[name], _use_new_zipfile_serialization=False),
            'zip': lambda: zipped({'data.pkl': pickle.dumps(CALLS[name], 2), 'version': b'3\n'}),
            'inside': lambda: saved({'weight': torch.zeros(2), 'bias': CALLS[name]})}[form]()
    path = tmp_path / 'w.pt'
    path.write_bytes(data)
    assert refused(load_weights, path)
    path.write_bytes(signed(data))
    assert refused(load_checkpoint, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ['w.pt']


def test_malicious_pickles_work_with_plain_pickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in CALLS.values():
        pickle.loads(pickle.dumps(call))
        assert (tmp_path / 'executed').exists()
        (tmp_path / 'executed').unlink()


def test_format_before_torch_1_6_is_refused(tmp_path):
    path = tmp_path / 'w.pt'
    path.write_bytes(saved({'a': torch.zeros(2)}, _use_new_zipfile_serialization=False))
    text = refused(load_weights, path)
    assert 'torch.save before torch 1.6' in text and 'save it again' in text


@pytest.mark.parametrize('content', [
    [torch.zeros(2)], {0: torch.zeros(2)}, {'a': 1}, {'a': {'b': torch.zeros(2)}},
    {'a': torch.zeros(1).expand(10 ** 9)}, {'a': torch.zeros(2, 2).to_sparse()},
    {'a': torch.empty(2, device='meta')}, torch.zeros(3), 'text', None],
    ids=['list', 'int key', 'int', 'nested', 'expanded', 'sparse', 'meta', 'tensor', 'text', 'none'])
def test_other_contents_are_refused(tmp_path, content):
    path = tmp_path / 'w.pt'
    path.write_bytes(saved(content))
    assert refused(load_weights, path)
    if not isinstance(content, dict):
        path.write_bytes(signed(saved(content)))
        assert 'no dict' in refused(load_checkpoint, path)


def test_arbitrary_bytes_with_a_correct_checksum_are_refused(tmp_path):
    path, rng = tmp_path / 'state.pt', random.Random(1)
    good = saved({'epoch': 1, 'w': torch.arange(40)})
    for data in (b'', b'text', zipped({}), zipped({'data.pkl': b'.'}), *(flipped(good, rng) for _ in range(200))):
        path.write_bytes(signed(data))
        if refused(load_checkpoint, path) is None:
            assert torch.equal(load_checkpoint(path)['w'], torch.arange(40))


def test_plain_contents_are_loaded(tmp_path):
    path, tensor = tmp_path / 'w.pt', torch.arange(6.).reshape(2, 3)
    path.write_bytes(saved(OrderedDict(a=torch.nn.Parameter(tensor), b=tensor.T, c=tensor.half(), d=torch.empty(0))))
    found = load_weights(path)
    assert torch.equal(found['a'], tensor) and torch.equal(found['b'], tensor.T) and found['d'].numel() == 0
    assert type(found['a']) is torch.Tensor and not found['a'].requires_grad


# ---- sizes that are only declared ----

def peak():
    """Peak memory of this process in bytes."""
    resource = pytest.importorskip('resource')  # absent on Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def bombs(data):
    """Weights files whose records claim to be, or unpack to, far more than the file holds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('archive/data.pkl', 'w') as record:
        for _ in range(512):  # in pieces, so that the peak memory is that of reading
            record.write(bytes(2 ** 20))
    yield buffer.getvalue()
    entry = data.index(b'PK\1\2')
    for places in ((24,), (20, 24)):  # uncompressed size, both sizes, of the first record in the directory
        bad = bytearray(data)
        for place in places:
            bad[entry + place:entry + place + 4] = struct.pack('<I', 2 ** 32 - 2)
        yield bytes(bad)
    first = zipped({'data.pkl': b'.', 'data/0': bytes(2 ** 20)})
    yield first.replace(struct.pack('<2I', 2 ** 20, 2 ** 20), struct.pack('<2I', 2 ** 31, 2 ** 31))


def test_declared_sizes_do_not_allocate_memory(weights, tmp_path):
    files = list(bombs(weights[0]))
    path, before = tmp_path / 'w.pt', peak()
    for data in files:
        for load, content in ((load_weights, data), (load_checkpoint, signed(data))):
            path.write_bytes(content)
            assert refused(load, path)
    assert peak() - before < 2 ** 27


def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def huge_images():
    """(suffix, bytes) of small files whose header declares far more than 64 million pixels."""
    header = struct.pack('>2I5B', 60000, 60000, 8, 2, 0, 0, 0)
    chunks = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')
    yield 'png', b'\x89PNG\r\n\x1a\n' + chunks
    jpeg = bytearray(encoded('JPEG', 'RGB'))
    frame = jpeg.index(b'\xff\xc0')
    jpeg[frame + 5:frame + 9] = struct.pack('>2H', 65000, 65000)
    yield 'jpg', bytes(jpeg)
    bmp = bytearray(encoded('BMP', 'RGB'))
    bmp[18:26] = struct.pack('<2i', 60000, 60000)
    yield 'bmp', bytes(bmp)
    tags = ((256, 4, 60000), (257, 4, 60000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, 60000), (279, 4, 100))
    yield 'tif', (b'II*\0' + struct.pack('<IH', 8, len(tags))
                  + b''.join(struct.pack('<2H2I', tag, kind, 1, value) for tag, kind, value in tags) + bytes(4))
    webp = bytearray(encoded('WEBP', 'RGB'))
    frame = webp.index(b'\x9d\x01\x2a')
    webp[frame + 3:frame + 7] = struct.pack('<2H', 16383, 16383)
    yield 'webp', bytes(webp)


def encoded(form, mode, **options):
    """A small file of this kind."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('suffix, data', list(huge_images()), ids=lambda value: value if isinstance(value, str) else '')
def test_huge_images_are_refused_without_decoding(tmp_path, suffix, data):
    path, before = tmp_path / f'huge.{suffix}', peak()
    path.write_bytes(data)
    for read in (read_rgb, read_photo):
        assert refused(read, path)
    assert peak() - before < 2 ** 28


IMAGES = [('PNG', 'RGB', {}), ('PNG', 'P', {}), ('PNG', 'LA', {}), ('PNG', 'I;16', {}), ('JPEG', 'RGB', {}),
          ('JPEG', 'CMYK', {}), ('TIFF', 'RGB', {}), ('TIFF', 'L', {'compression': 'tiff_lzw'}), ('TIFF', 'I;16', {}),
          ('WEBP', 'RGB', {}), ('WEBP', 'RGBA', {'lossless': True}), ('BMP', 'RGB', {}), ('BMP', 'P', {})]


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow warns of damaged tags
@pytest.mark.parametrize('form, mode, options', IMAGES)
def test_damaged_images_are_decoded_or_refused(tmp_path, form, mode, options):
    if mode == 'I;16':
        buffer = io.BytesIO()
        Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 100).save(buffer, form)
        data = buffer.getvalue()
    else:
        data = encoded(form, mode, **options)
    path, rng = tmp_path / f'image.{form.lower()}', random.Random(form + mode)
    path.write_bytes(data)
    assert read_rgb(path).shape == (24, 20, 3)
    for number in range(48):
        bad = (flipped, zeroed, cut, widened)[number % 4](data, rng)
        if number % 8 > 3:  # half of the damage where the header is
            bad = flipped(data[:64], rng) + data[64:]
        path.write_bytes(bad)
        for read in (read_rgb, read_photo):
            try:
                found = read(path)
            except UserError as error:
                assert '\n' not in str(error) and path.name in str(error)
                continue
            array = found if read is read_rgb else found.colour
            assert array.ndim == 3 and array.shape[2] == 3 and array.shape[0] * array.shape[1] <= MAX_PIXELS


# ---- the sources ----

def sources():
    """Every Python file of the project but its tests."""
    for path in sorted(ROOT.rglob('*.py')):
        folders = path.relative_to(ROOT).parts[:-1]
        if not {'test', 'experiment', 'site-packages'} & set(folders) and not any(f.startswith('.') for f in folders):
            yield path


def dotted(node):
    """'a.b.c' of such an expression, '' of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f'{start}.{node.attr}'
    return ''


def literal(call, keyword):
    """The value that `call` gives to `keyword`, None if absent or not a literal."""
    return next((item.value.value for item in call.keywords
                 if item.arg == keyword and isinstance(item.value, ast.Constant)), None)


def dangers(text):
    """What in Python source could execute the contents of a file or of a string."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or '', *(f'{node.module}.{alias.name}' for alias in node.names)]
        elif isinstance(node, ast.Call):
            yield from _dangers_of_call(node)
            continue
        else:
            continue
        for name in names:
            if name.split('.')[0] in PICKLING or name in ('os.system', 'os.popen', 'torch.load', 'numpy.load'):
                yield f'line {node.lineno}: import of {name}'


def _dangers_of_call(call):
    name = dotted(call.func)
    if name in ('eval', 'exec', 'builtins.eval', 'builtins.exec', 'os.system', 'os.popen', 'torch.jit.load'):
        yield f'line {call.lineno}: {name}'
    if literal(call, 'shell') not in (None, False) or name in ('subprocess.getoutput', 'subprocess.getstatusoutput'):
        yield f'line {call.lineno}: a shell'
    if name == 'torch.load' and literal(call, 'weights_only') is not True:
        yield f'line {call.lineno}: torch.load without weights_only=True'
    if name in ('np.load', 'numpy.load') and literal(call, 'allow_pickle') is not False:
        yield f'line {call.lineno}: np.load without allow_pickle=False'


def test_no_source_executes_file_contents():
    paths = list(sources())
    assert ROOT / 'store' / 'tensors.py' in paths and ROOT / 'data' / 'images.py' in paths
    found = [f'{path.relative_to(ROOT)} {what}' for path in paths for what in dangers(path.read_text('utf-8'))]
    assert not found, '\n'.join(found)


@pytest.mark.parametrize('text', [
    'import pickle', 'from pickle import loads', 'import joblib', 'from os import system', 'from torch import load',
    'eval("1")', 'exec("1")', 'os.system("ls")', 'os.popen("ls")', 'subprocess.run("ls", shell=True)',
    'torch.load(f)', 'torch.load(f, weights_only=False)', 'torch.load(f, weights_only=flag)', 'np.load(f)',
    'np.load(f, allow_pickle=True)'])
def test_dangerous_code_is_detected(text):
    assert list(dangers(text))


@pytest.mark.parametrize('text', [
    'net.eval()', 'subprocess.run(["ls"])', 'subprocess.run(["ls"], shell=False)', 'torch.load(f, weights_only=True)',
    'np.load(f, allow_pickle=False)'])
def test_harmless_code_is_not_reported(text):
    assert not list(dangers(text))
