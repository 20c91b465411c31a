"""One's own photos, enlarged by the student: no ground truth, no data-set layout, any image mode."""
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from data.degradation import resize
from data.images import find_photos, read_photo, write_photo
from utility import UserError, expand, shown


class Enlarger:
    """restore: from lq (1, 3, h, w) in [0, rgb_range] to sr (1, 3, sh, sw), on `device`."""

    def __init__(self, restore, scale, rgb_range, device):
        self.restore, self.scale, self.rgb_range, self.device = restore, scale, rgb_range, device

    @torch.no_grad()
    def colour(self, image):
        """float array (h, w, 3) in [0, 1] → float32 array (sh, sw, 3) in [0, 1]."""
        lq = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.device, torch.float32) * self.rgb_range
        sr = self.restore(lq)                                                       # (1, 3, sh, sw)
        return (sr / self.rgb_range).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().contiguous().numpy()

    def photo(self, photo):
        """A Photo, enlarged: its transparency separately, grey as grey, depth and colour profile kept."""
        alpha = photo.alpha
        if alpha is not None:
            # Bicubic keeps opaque and clear areas exactly so, which no network does.
            alpha = resize(torch.from_numpy(alpha)[None, None], self.scale, shrink=False).clamp(0, 1)[0, 0].numpy()
        return replace(photo, colour=self.colour(photo.colour), alpha=alpha)

    def targets(self, source, folder):
        """{photo: its result} for the file, folder or glob `source`.

        Results are named <name>_x<scale>.png and lie in `folder`, in the same sub-folders; where names would collide
        they keep the suffix too. Earlier results are no photos: what lies in a `folder` inside the source, and what
        is named like the result of another photo beside it. Raises UserError if there is none.
        """
        root, photos = expand(source), find_photos(source)
        if root.resolve() in folder.resolve().parents:
            photos = [path for path in photos if folder.resolve() not in path.resolve().parents]
        places = {(path.parent, path.stem) for path in photos}
        mark = f'_x{self.scale}'
        photos = [path for path in photos
                  if not (path.stem.endswith(mark) and (path.parent, path.stem.removesuffix(mark)) in places)]
        if not photos:
            raise UserError(f'--dir_demo {shown(source)}: holds nothing but the results in {shown(folder)}')
        parents = {path: path.parent.relative_to(root) if root.is_dir() else Path() for path in photos}
        taken = Counter((parents[path], path.stem) for path in photos)
        return {path: folder / parent / f'{path.stem if taken[parent, path.stem] == 1 else path.name}_x{self.scale}.png'
                for path, parent in parents.items()}

    def files(self, photos, overwrite, log):
        """Enlarge photos, {file: its result} as targets() makes them.

        A file that cannot be read, or whose result is there already, is skipped. Raises UserError with the list of
        these at the end.
        """
        failed = []
        for path, target in tqdm(photos.items(), unit='photo', disable=None):
            try:
                if target.exists() and not overwrite:
                    raise UserError(f'{shown(target)}: exists already; --overwrite replaces it')
                height, width = self._file(path, target)
            except UserError as error:
                failed.append(str(error))
                continue
            log(f'{shown(path)} ({width}x{height}) -> {shown(target)} ({width * self.scale}x{height * self.scale})')
        if failed:
            raise UserError(f'{len(failed)} of {len(photos)} photos were not enlarged: ' + '; '.join(failed))

    def _file(self, path, target):
        """(height, width) of the photo `path`, whose result is now in `target`. Raises UserError that names a file."""
        photo = read_photo(path)
        try:
            large = self.photo(photo)
        except UserError as error:  # that memory runs out: only here is it known on what file
            raise UserError(f'{shown(path)}: {error}') from error
        write_photo(target, large)
        return photo.colour.shape[:2]
