"""Helpers of tests of photos: small images, files made independently of the code under test, a dummy student."""
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from skimage import data as photos

from model import mrda
from photo.batch import upscale_files
from photo.output import Output
from photo.targets import targets
from photo.upscaler import Upscaler

SCENE = np.ascontiguousarray(photos.astronaut()[:48, 100:164])                      # (48, 64, 3)
RGB = np.ascontiguousarray(photos.astronaut()[:14, 100:110])                        # (14, 10, 3)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
GRAY_ICC = SRGB[:16] + b'GRAY' + SRGB[20:]


def save(path, array=RGB, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return Path(path)


def files(folder='upscaled'):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob('*') if path.is_file())


def png_chunk(name, content):
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))


def png_16(path, array, colour_type, extra=b''):
    """A 16-bit PNG, written independently of the code under test."""
    height, width, _ = array.shape
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in array)
    header = struct.pack('>2I5B', width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', header) + extra
                     + png_chunk(b'IDAT', zlib.compress(rows)) + png_chunk(b'IEND', b''))
    return path


class Nearest(torch.nn.Module):
    """A dummy student: nearest neighbours, so that results are known."""
    overlap = 0

    class SR(torch.nn.Module):
        def forward(self, lq, rep):
            return lq.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def __init__(self):
        super().__init__()
        self.G = self.SR()

    def encoder(self, lq):
        return lq.mean((2, 3)), None


NEAREST = Upscaler(Nearest(), 2, 1, torch.device('cpu'), tile=32)


def mixing_student():
    """An upscaler of x2 that changes colours and mixes those of neighbouring pixels."""
    torch.manual_seed(0)
    net = mrda.student(2, 1).requires_grad_(False)
    net.G.tail[1].weight.mul_(4)
    return Upscaler(net, 2, 1, torch.device('cpu'))


def with_chunks(path, *chunks, data=None):
    """A PNG file of SCENE with these chunks before its pixels."""
    data = data or save('plain.png', SCENE).read_bytes()
    Path(path).write_bytes(data[:33] + b''.join(chunks) + data[33:])
    return Path(path)


def run(name, model=NEAREST, **options):
    """(result file, log lines) of a call for one photo."""
    output, lines = Output(2, **options), []
    found = targets([name], Path('out'), output)
    upscale_files(model, found, output, lines.append)
    return found[Path(name)], lines
