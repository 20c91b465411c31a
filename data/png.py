"""The chunks of PNG files, split so that damaged metadata does not prevent reading the pixels."""
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURE = b'\x89PNG\r\n\x1a\n'
PIXELS = (b'IHDR', b'PLTE', b'IDAT', b'IEND')
ANIMATION = (b'acTL', b'fcTL', b'fdAT')
TRANSPARENCY = {0: 2, 2: 6}  # bytes of tRNS by colour type; of a palette (3): one for each entry at most
LONGEST = 1 << 20  # bytes of text or a profile: Pillow's limit


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def split(file: BinaryIO, header_only: bool = False) -> tuple[bytes, list[tuple[bytes, bytes]], list[str]]:
    """Split a PNG file: (PNG file of the pixels of its default image, [(name, content)] of its other chunks, names of
    the damaged ones).

    header_only: leave out the pixels and what comes after them; the file is then enough to read the size.
    """
    parts, others, damaged, colour_type, n_colours = [file.read(len(SIGNATURE))], [], [], None, 0
    for name, content, stored in _chunks(file):
        if header_only and name == b'IDAT':
            parts.append(chunk(b'IDAT', b''))
            break
        whole = name in PIXELS or chunk(name, content) == stored  # damaged pixels are left to the decoder's checks
        if name in PIXELS:
            parts.append(stored)
            colour_type = content[9] if name == b'IHDR' and len(content) == 13 else colour_type
            n_colours = len(content) // 3 if name == b'PLTE' else n_colours
        elif name == b'tRNS' and whole and _fits(content, colour_type, n_colours):
            parts.append(stored)
        elif whole and name != b'tRNS':
            others.append((name, content))
        elif name not in ANIMATION:
            damaged.append(name.decode('ascii', 'replace'))
        if name == b'IEND':  # data after it, as some phones write, is not part of the image
            break
    return b''.join(parts), others, damaged


def _fits(content: bytes, colour_type: int, n_colours: int) -> bool:
    """Whether the content of a tRNS chunk has the length that the colour type needs."""
    return len(content) == TRANSPARENCY.get(colour_type) or (colour_type == 3 and 0 < len(content) <= n_colours)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(name, content, the chunk as stored) of each chunk; of a truncated file also the incomplete last one."""
    while len(head := file.read(8)) == 8:
        length, = struct.unpack('>I', head[:4])
        rest = file.read(length + 4)
        yield head[4:], rest[:length], head + rest


def text(name: bytes, content: bytes) -> tuple[str, str]:
    """(keyword, text) of a tEXt, zTXt or iTXt chunk. Raises ValueError if it is damaged or longer than LONGEST."""
    keyword, _, rest = content.partition(b'\0')
    compressed, coding = name == b'zTXt', 'latin-1'
    if name == b'zTXt':
        rest = rest[1:]
    elif name == b'iTXt':
        compressed, coding = rest[:1] == b'\1', 'utf-8'
        rest = rest[2:].split(b'\0', 2)[-1]
    return keyword.decode('latin-1'), (inflate(rest) if compressed else rest).decode(coding)


def profile(content: bytes) -> bytes:
    """The colour profile in an iCCP chunk. Raises ValueError if it is damaged."""
    return inflate(content.partition(b'\0')[2][1:], 64 * LONGEST)


def inflate(data: bytes, longest: int = LONGEST) -> bytes:
    """Decompressed zlib data. Raises ValueError if it is damaged or more than `longest` bytes."""
    unpacker = zlib.decompressobj()
    try:
        result = unpacker.decompress(data, longest)
    except zlib.error as error:
        raise ValueError('damaged') from error
    if not unpacker.eof:
        raise ValueError(f'more than {longest:,} bytes' if unpacker.unconsumed_tail else 'damaged')
    return result
