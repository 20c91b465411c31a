"""Metadata of photos, read from one format and converted for another."""
import re
from dataclasses import dataclass, field

from PIL import Image

from data import png
from data.images import ORIENTATION
from data.pixels import Decoded, suppress_damage

COLOUR = (b'gAMA', b'cHRM', b'sRGB', b'cICP', b'mDCV', b'cLLI')  # PNG chunks that define the encoding of colours
HDR = {16: 'PQ', 18: 'HLG'}  # transfer functions in cICP
XMP = 'XML:com.adobe.xmp'
MISTAKEN = ('exif', 'xmp', 'icc_profile', 'dpi', 'gamma', 'transparency', 'aspect')  # Pillow misreads such text
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
DESCRIPTION = (270, 271, 272, 305, 306, 315, 33432)  # TIFF tags that do not concern the layout of pixels
SIZES = {256: 0, 257: 1, 0xa002: 0, 0xa003: 1}  # EXIF tags of width and height


@dataclass
class Metadata:
    """The metadata of a photo."""
    icc: bytes | None = None                                # colour profile for the pixels' channels
    colour: list[tuple[bytes, bytes]] = field(default_factory=list)     # PNG chunks of COLOUR
    exif: Image.Exif = field(default_factory=Image.Exif)
    xmp: str = ''
    dpi: tuple[float, float] | None = None
    text: list[tuple[str, str]] = field(default_factory=list)           # keyword, text

    def stripped(self) -> 'Metadata':
        """Only the metadata that define the colours."""
        return Metadata(self.icc, self.colour)

    def resized(self, width: int, height: int) -> 'Metadata':
        """The metadata for the upright result of width x height pixels."""
        exif, size = Image.Exif(), (width, height)
        if len(self.exif):
            exif.load(self.exif.tobytes())
            for tags in exif, exif.get_ifd(EXIF_IFD) if EXIF_IFD in exif else {}:
                tags.update({tag: size[i] for tag, i in SIZES.items() if tag in tags})
            if ORIENTATION in exif:
                exif[ORIENTATION] = 1
        xmp = self.xmp
        for name, value in (('tiff:Orientation', 1), ('tiff:ImageWidth', width), ('tiff:ImageLength', height),
                            ('exif:PixelXDimension', width), ('exif:PixelYDimension', height)):
            xmp = re.sub(rf'({name}(?:="|>))\d+', rf'\g<1>{value}', xmp)
        return Metadata(self.icc, self.colour, exif, xmp, self.dpi, self.text)

    @property
    def encoding(self) -> str:
        """The encoding of colours as text if only PNG can hold it; '' for sRGB or a colour profile."""
        chunks = dict(self.colour)
        if b'cICP' in chunks and len(chunks[b'cICP']) == 4:
            primaries, transfer = chunks[b'cICP'][:2]
            if (primaries, transfer) != (1, 13):
                return f'HDR ({HDR[transfer]})' if transfer in HDR else f'cICP {primaries}/{transfer}'
        elif not self.icc and b'sRGB' not in chunks:
            gamma = int.from_bytes(chunks.get(b'gAMA', b''), 'big') / 100_000
            if gamma and abs(gamma - 1 / 2.2) > 0.01:
                return f'gamma {gamma:g}'
            if b'cHRM' in chunks and not _like_srgb(chunks[b'cHRM']):
                return 'non-standard primaries'
        return ''


def _like_srgb(primaries: bytes) -> bool:
    values = [int.from_bytes(primaries[i:i + 4], 'big') for i in range(0, len(primaries), 4)]
    standard = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    return len(values) == 8 and all(abs(a - b) <= 500 for a, b in zip(values, standard, strict=True))


def collect(found: Decoded, nclx: bytes = b'') -> Metadata:
    """The metadata of a decoded file; what is damaged or too long for readers is added to `found.dropped`.

    nclx: primaries and transfer function of an AVIF or HEIC file, as encoding_of finds them.
    """
    kept = Metadata(found.info.get('icc_profile'), dpi=_resolution(found.info.get('dpi')))
    kept.exif = _descriptive(found.exif) if found.form == 'TIFF' else found.exif
    with suppress_damage(found, 'EXIF data'):
        kept.exif.tobytes()
    if 'EXIF data' in found.dropped:
        kept.exif = Image.Exif()
    xmp = found.info.get('xmp') or found.info.get('XML:com.adobe.xmp') or b''
    kept.xmp = xmp if isinstance(xmp, str) else xmp.decode('utf-8', 'replace')
    if comment := found.info.get('comment', b''):
        comment = comment.decode('utf-8', 'replace') if isinstance(comment, bytes) else str(comment)
        kept.text.append(('Comment', comment))
    if nclx and not kept.icc:
        kept.colour.append((b'cICP', nclx + b'\0\1'))
    for name, content in found.chunks:
        _keep_chunk(kept, found, name, content)
    if kept.icc and kept.icc[16:20] != (b'GRAY' if found.pixels.shape[2] < 3 else b'RGB '):
        found.dropped.append('a colour profile for other channels')
        kept.icc = None
    return kept


def encoding_of(head: bytes) -> bytes:
    """Primaries and transfer function, two bytes as in cICP, from the header of an AVIF or HEIC file; b'' if there are
    none or those of sRGB. Pillow does not read them."""
    box = head.find(b'colrnclx')
    primaries, transfer = (int.from_bytes(head[box + i:box + i + 2], 'big') for i in (8, 10)) if box >= 0 else (2, 2)
    plain = primaries in (1, 2) and transfer not in HDR  # 2: unspecified; others are displayed as sRGB
    return b'' if plain or max(primaries, transfer) > 255 else bytes([primaries, transfer])


def _keep_chunk(kept: Metadata, found: Decoded, name: bytes, content: bytes) -> None:
    """Add a chunk of a PNG file to the metadata; those of layout (bKGD, sBIT, hIST, ...) are left out."""
    if name in COLOUR:
        kept.colour.append((name, content))
    elif name == b'iCCP':
        with suppress_damage(found, 'a damaged colour profile'):
            kept.icc = png.profile(content)
    elif name == b'pHYs' and len(content) == 9 and content[8] == 1:
        kept.dpi = _resolution(int.from_bytes(content[i:i + 4], 'big') * 0.0254 for i in (0, 4))
    elif name in (b'tEXt', b'zTXt', b'iTXt'):
        keyword = content.partition(b'\0')[0].decode('latin-1')
        with suppress_damage(found, f'text {keyword!r}, damaged or longer than {png.LONGEST:,} bytes'):
            keyword, text = png.text(name, content)
            if keyword == XMP:
                kept.xmp = text
            elif keyword in MISTAKEN:
                found.dropped.append(f'text {keyword!r}, which readers would misinterpret')
            elif not keyword.startswith('Raw profile type '):
                kept.text.append((keyword, text))


def _resolution(dpi: object) -> tuple[float, float] | None:
    """Horizontal and vertical pixels per inch, if both are plausible."""
    try:
        x, y = (float(value) for value in dpi)
        return (x, y) if 1 < x <= 1e6 and 1 < y <= 1e6 else None  # 1: Pillow's value for a TIFF file without any
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _descriptive(exif: Image.Exif) -> Image.Exif:
    """The tags of a TIFF file that do not concern its layout, as tifffile's description does."""
    kept = Image.Exif()
    kept.update({tag: exif[tag] for tag in DESCRIPTION if tag in exif and not str(exif[tag]).startswith('{"shape"')})
    for ifd in EXIF_IFD, GPS_IFD:
        if ifd in exif and (tags := exif.get_ifd(ifd)):
            kept[ifd] = dict(tags)
    loaded = Image.Exif()  # loaded again, so that get_ifd works
    loaded.load(kept.tobytes())
    return loaded
