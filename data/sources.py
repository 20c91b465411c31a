"""The public data sets: archives, checksums, counts and folders. The only file with URLs of downloads."""
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from data.dataset import BENCHMARKS, DIV2K, FLICKR2K, VALID
from utility import UserError

ETH, SNU = 'https://data.vision.ee.ethz.ch/cvl/DIV2K/', 'https://cv.snu.ac.kr/research/EDSR/'
MANGA109 = 'http://www.manga109.org/en/download.html'


@dataclass(frozen=True)
class Archive:
    """A .zip or uncompressed .tar. Its owners publish no checksum; `digest` is from other projects."""
    url: str
    size: int      # bytes; approximate for Flickr2K
    unpacked: int  # bytes of the images unpacked from it, at most
    digest: str    # 'sha256:…' or 'md5:…'

    @property
    def name(self) -> str:
        return self.url.rpartition('/')[2]


@dataclass(frozen=True)
class Part:
    """A data set, or its validation part, by the name that users give."""
    name: str
    count: int
    folder: str = ''                 # below --dir_data, for downloaded images
    archive: Archive | None = None
    stem: str = ''                   # format of the names of numbered images
    first: int = 1

    def numbered(self) -> list[str]:
        """The stems of its images if they are known, else []."""
        return [self.stem.format(i) for i in range(self.first, self.first + self.count)] if self.stem else []

    @property
    def inside(self) -> tuple[str, ...]:
        """The last parts of the images' folder in the archive: ('DIV2K_train_HR',), ('Set5', 'HR')."""
        return PurePosixPath(self.folder).parts[1:]


# SHA-256 from TensorFlow Datasets (url_checksums/div2k.txt), confirmed by others who downloaded the files.
TRAIN_ZIP = Archive(f'{ETH}DIV2K_train_HR.zip', 3_530_603_713, 3_531_000_000,
                    'sha256:9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335')
VALID_ZIP = Archive(f'{ETH}DIV2K_valid_HR.zip', 448_993_893, 449_000_000,
                    'sha256:20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc')
# MD5 from torchSR (torchsr/datasets/flickr2k.py). The archive contains LR images, too.
FLICKR_TAR = Archive(f'{SNU}Flickr2K.tar', 20_400_000_000, 11_700_000_000, 'md5:5d3f39443d5e9489bff8963f8f26cb03')
# SHA-256 as a public project that tests against this archive records it (sisr, tests/utils/test_imresize.py).
BENCHMARK_TAR = Archive(f'{SNU}benchmark.tar', 250_112_000, 200_000_000,
                        'sha256:80c21c333bbf6ceb5308b7243761f8284478274413a97b96f1d63e9045fd93e8')
PARTS = {part.name: part for part in (
    Part('DIV2K', 800, DIV2K, TRAIN_ZIP, '{:04}'),
    Part('DIV2K_valid', 100, VALID, VALID_ZIP, '{:04}', 801),
    Part('Flickr2K', 2650, FLICKR2K, FLICKR_TAR, '{:06}'),
    Part('DF2K', 3450),
    Part('Set5', 5, 'benchmark/Set5/HR', BENCHMARK_TAR),
    Part('Set14', 14, 'benchmark/Set14/HR', BENCHMARK_TAR),
    Part('B100', 100, 'benchmark/B100/HR', BENCHMARK_TAR),
    Part('Urban100', 100, 'benchmark/Urban100/HR', BENCHMARK_TAR, 'img_{:03}'),
    Part('Manga109', 109, 'benchmark/Manga109/HR'),
)}
OPTIONAL = ('Manga109',)  # available on request only
TOGETHER = {'DIV2K': ('DIV2K', 'DIV2K_valid')}
NEEDED = {'DF2K': ('DIV2K', 'DIV2K_valid', 'Flickr2K', 'DF2K')}  # to build it


def named(names: Iterable[str], making: bool = False) -> dict[str, Part]:
    """{name: Part} of the sets that a user named, in the order of PARTS; making: with the parts to build them from.

    Raises UserError for a name that is not in PARTS.
    """
    known = {name.lower(): name for name in PARTS} | BENCHMARKS
    chosen = set()
    for name in names:
        if name.lower() not in known:
            raise UserError(f'{name!r} is not a known data set; choose from {", ".join(PARTS)}')
        name = known[name.lower()]
        chosen |= {*(NEEDED if making else {}).get(name, ()), *TOGETHER.get(name, (name,))}
    return {name: part for name, part in PARTS.items() if name in chosen}
