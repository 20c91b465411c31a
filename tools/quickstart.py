"""The whole method in miniature: the four stages by main.py on photos from scikit-image, then a photo without ground
truth, upscaled by the shipped weights.

Everything is written to experiment/: the photos to quickstart_photos/, the runs to quickstart_stage1 …
quickstart_stage4, the table and the figures to quickstart/. Flags are passed to every stage.
"""
import csv
import sys
import time
from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import main as program
from data import make_loaders
from data.images import read_rgb, write_rgb
from data.pairs import Degraded
from option import parse
from process.arguments import Parser
from process.command import command_line
from report.evaluation import Evaluator, to_float, to_uint8, write_csv
from report.plots import draw_panel
from run.pretrained import initialise
from stage import Stage
from store.checkpoint import run_folder
from trainer_stage2 import Stage2
from upscale import load

BUNDLED = Path(skimage.__file__).parent / 'data'
SHIPPED = Path(__file__).resolve().parent.parent / 'zoo' / 'mln' / 'mrda_mln48_x4_iso.safetensors.xz'
PHOTOS = Path('experiment/quickstart_photos')
OUT = Path('experiment/quickstart')
TRAIN = ('astronaut.png', 'rocket.jpg', 'hubble_deep_field.jpg', 'ihc.png', 'motorcycle_left.png', 'retina.jpg',
         'brick.png', 'grass.png', 'gravel.png')
HELD_OUT = ('chelsea.png', 'coffee.png')
COMMON = ['--dir_data', str(PHOTOS), '--data_train', 'Train', '--data_test', 'HeldOut',
          '--dir_cache', str(PHOTOS / 'cache'), '--sig', '2.6', '--sig_min', '1.8', '--sig_max', '3.2',
          '--n_feats', '32', '--n_blocks', '3', '--patch_size', '32', '--batch_size', '8', '--n_threads', '0',
          '--print_every', '50', '--save_results']
STAGES = {  # what each stage adds
    1: ['--epochs_sr', '2', '--test_every', '100', '--lr_sr', '1e-3'],
    2: ['--epochs_sr', '2', '--test_every', '30', '--lr_sr', '1e-3', '--meta_batch_size', '3'],
    3: ['--epochs_sr', '3', '--test_every', '60', '--lr_sr', '1e-3', '--lr_decay_sr', '2'],
    4: ['--epochs_sr', '3', '--test_every', '60', '--lr_sr', '5e-4', '--lr_decay_sr', '1', '--epochs_encoder', '1',
        '--lr_encoder', '1e-3'],
}
SHOWN, CROP = 'chelsea', (90, 130, 90)  # the image of comparison.png, and its zoomed crop: top, left, side
OWN, OWN_CROP = 'chelsea.png', (320, 480, 360)  # the photo without ground truth, and a crop of the result


class Bicubic(Stage):
    """Bicubic upsampling, the baseline, without a network."""

    def super_resolve(self, lq: torch.Tensor, up: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """up itself, (1, 3, sh, sw)."""
        return up


@command_line('; the same command resumes it')
def main(flags: list[str]) -> int:
    """The command; flags: for main.py. Returns the exit status."""
    own = Parser(prog='tools/quickstart.py', usage='sh scripts/quickstart.sh [--reset] [flags of main.py]',
                 description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    own.parse_known_args(flags)  # --help
    start = time.monotonic()
    write_photos()
    for stage in STAGES:
        print(f'\n=== Stage {stage} of 4 ===', flush=True)
        status = program.main(stage_flags(stage, flags))
        if status:
            return status
    report(*(parse([*line, '--test_only']) for line in (stage_flags(2, flags), shipped_flags(flags),
                                                        stage_flags(4, flags))))
    upscale_photo()
    print(f'{(time.monotonic() - start) / 60:.1f} minutes')
    return 0


def stage_flags(stage: int, flags: list[str]) -> list[str]:
    """The command line of a stage."""
    return ['--stage', str(stage), '--save', f'quickstart_stage{stage}', *COMMON, *STAGES[stage], *flags]


def shipped_flags(flags: list[str]) -> list[str]:
    """The command line of stage 2 with the shipped MLN, which is trained longer than the quickstart's own."""
    return [*stage_flags(2, flags), '--n_feats', '48', '--test_iter', '5', '--pre_train', str(SHIPPED)]


def write_photos() -> None:
    """Write the photos of scikit-image's package in the layout of --dir_data."""
    for folder, names in (('Train', TRAIN), ('benchmark/HeldOut', HELD_OUT)):
        for name in names:
            target = PHOTOS / folder / 'HR' / f'{Path(name).stem}.png'
            if not target.exists():
                write_rgb(target, read_rgb(BUNDLED / name))


def report(own: Namespace, shipped: Namespace, args: Namespace) -> None:
    """The table and the picture: bicubic and each stage on the held-out images. own, shipped: the options of stage 2
    with the quickstart's MLN and with the shipped one; args: those of stage 4."""
    runs = {name: run_folder(f'quickstart_stage{stage}', args) / 'results'
            for name, stage in (('teacher *', 3), ('student', 4))}
    bicubic = Bicubic(args)
    evaluator = evaluator_of(bicubic, args, OUT)
    for testset in make_loaders(args)[1]:
        for scores in evaluator.score(bicubic, testset):
            write_csv(OUT, scores)
    found = {'bicubic': means(OUT), **adaptation('MLN', own),
             **{name: means(folder) for name, folder in runs.items()},
             **adaptation('shipped MLN', shipped)}
    rows = [f'{name:24}{psnr:8.2f}{ssim:9.4f}' for name, (psnr, ssim) in found.items()]
    text = '\n'.join([f'{"":24}{"PSNR":>8}{"SSIM":>9}', *rows, '* adapts on the ground truth; the student needs none'])
    (OUT / 'table.txt').write_text(text + '\n', encoding='utf-8')
    images = {'bicubic': OUT, 'student': runs['student']}
    pictures = {name: read_rgb(next(folder.glob(f'*/{SHOWN}_x{args.scale}.png'))) for name, folder in images.items()}
    truth = read_rgb(PHOTOS / 'benchmark' / 'HeldOut' / 'HR' / f'{SHOWN}.png')
    height, width = pictures['student'].shape[:2]
    truth = truth[:height, :width]
    pictures = {'LR input': lr_image(args, truth, bicubic), **pictures, 'ground truth': truth}
    draw_panel(OUT / 'comparison.png', pictures, CROP)
    print(f'\nHeld-out images super-resolved x{args.scale} after {bicubic.test_degradation}:\n\n{text}\n\n'
          f'Protocol: {evaluator.protocol(oracle=False)}\n'
          f'Pictures: {OUT / "comparison.png"} and the curves loss.png, psnr.png in each experiment/quickstart_stage*')


def evaluator_of(stage: Stage, args: Namespace, results: Path | None = None) -> Evaluator:
    """The test of a stage with the options `args`; results: folder for the images."""
    return Evaluator(Degraded(args.seed, args.rgb_range), [stage.test_degradation], args.scale, args.rgb_range,
                     torch.device('cpu'), results=results)


def adaptation(name: str, args: Namespace) -> dict[str, list[float]]:
    """Mean PSNR and SSIM of an MLN, called `name`, on the held-out images, before and after adaptation to each."""
    meta = Stage2(args)
    initialise(meta, args, log=lambda line: None)
    testset, = make_loaders(args)[1]
    scores, = evaluator_of(meta, args).score(meta.eval(), testset)
    return {name: list(scores.mean(0).values()), f'{name}, adapted *': list(scores.mean(-1).values())}


def lr_image(args: Namespace, truth: np.ndarray, stage: Stage) -> np.ndarray:
    """The LR image that the test made of SHOWN, truth uint8 (H, W, 3), its pixels repeated: uint8 (H, W, 3)."""
    hr = to_float(torch.from_numpy(truth).permute(2, 0, 1)[None], args.rgb_range, torch.device('cpu'), args.n_colors)
    lq, _ = Degraded(args.seed, args.rgb_range)('HeldOut', SHOWN, hr, stage.test_degradation)   # (1, 3, h, w)
    return to_uint8(lq, args.rgb_range).repeat(args.scale, 0).repeat(args.scale, 1)


def upscale_photo() -> None:
    """A photo without ground truth, upscaled by the shipped weights and by bicubic interpolation."""
    photo, model = read_rgb(BUNDLED / OWN), load()
    height, width = photo.shape[:2]
    bicubic = Image.fromarray(photo).resize((width * model.scale, height * model.scale), Image.Resampling.BICUBIC)
    sr = model.array(photo)
    write_rgb(OUT / f'{Path(OWN).stem}_x{model.scale}.png', sr)
    draw_panel(OUT / 'photo.png', {'bicubic': np.array(bicubic), 'student': sr}, OWN_CROP)
    print(f'A photo upscaled by the shipped weights, as by upscale.py: {OUT / "photo.png"}')


def means(folder: Path) -> list[float]:
    """Mean PSNR and SSIM over the images of the one table in `folder`."""
    with open(next(folder.glob('HeldOut_*.csv')), newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    return [sum(float(row[column]) for row in rows) / len(rows) for column in ('psnr_y', 'ssim_y')]


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
