"""The kind of a file by its first bytes, for errors about files that are not images or not supported."""
HEIC = 'a HEIC file'
RAW = 'a camera raw file'
MAGIC = (
    (0, b'8BPS', 'a Photoshop file'), (0, b'%PDF', 'a PDF file'), (0, b'%!PS', 'a PostScript file'),
    (0, b'<svg', 'an SVG drawing'), (0, b'<?xml', 'an XML file'), (0, b'<!DOCTYPE', 'a web page'),
    (0, b'<html', 'a web page'), (0, b'\xff\x0a', 'a JPEG XL file'), (4, b'JXL \r\n\x87\n', 'a JPEG XL file'),
    (0, b'FUJIFILMCCD-RAW', RAW), (0, b'IIRO', RAW), (0, b'IIU\0', RAW),
    (0, b'v/1\x01', 'an OpenEXR file'), (0, b'#?RADIANCE', 'a Radiance HDR file'), (0, b'\0\0\1\0', 'an icon'),
    (0, b'PK\3\4', 'a ZIP archive'), (0, b'\x1f\x8b', 'a gzip archive'), (4, b'ftypcrx', RAW), (8, b'CR\2\0', RAW),
    (4, b'ftypavi', 'an AVIF file'), (4, b'ftyphei', HEIC), (4, b'ftyphev', HEIC), (4, b'ftypmif1', HEIC),
    (4, b'ftypmsf1', HEIC), (4, b'ftyp', 'a video'), (0, b'GIF8', 'a GIF file'),
    (0, b'\0\0\0\x0cjP  ', 'a JPEG 2000 file'), (0, b'version https://git-lfs', 'a Git LFS pointer'))
CAMERA_RAW = ('.3fr', '.arw', '.cr2', '.cr3', '.crw', '.dcr', '.dng', '.erf', '.fff', '.iiq', '.kdc', '.mef', '.mos',
              '.mrw', '.nef', '.nrw', '.orf', '.pef', '.raf', '.raw', '.rw2', '.rwl', '.sr2', '.srf', '.srw', '.x3f')
OTHERS = ('.psd', '.psb', '.xcf', '.kra', '.svg', '.eps', '.ai', '.jxl', '.exr', '.hdr', '.tga', '.ico', '.dds', '.ppm',
          '.pgm', '.pbm', '.pnm', '.pcx', '.icns', '.jxr', '.wdp', '.jpm', '.fits', '.dcm', '.emf', '.wmf')


def kind_of(head: bytes) -> str:
    """The kind of a file that begins with `head`, as text; '' if unknown."""
    return next((name for offset, magic, name in MAGIC if head[offset:].startswith(magic)), '')


def left_out(suffix: str) -> str:
    """Why image files with this suffix are left out, being of an unsupported kind; '' for all other files."""
    if suffix.lower() in CAMERA_RAW:
        return 'camera raw is not supported; develop it to TIFF or JPEG'
    return f'{suffix[1:].upper()} is not supported; save it as PNG or TIFF' if suffix.lower() in OTHERS else ''
